"""libnbd's own Python binding, run by Debian's Python: it is not made for this one, and its module
has the name of our package."""

from __future__ import annotations

import os
import subprocess

import pytest

PYTHON = "/usr/bin/python3"
LIMIT_S = 120


def need_libnbd() -> None:
    """Go on only where the binding is there; else skip (or, with CI set, fail)."""
    done = subprocess.run(
        [PYTHON, "-I", "-c", "import nbd; nbd.NBD()"], capture_output=True, check=False
    )
    if done.returncode == 0:
        return
    reason = f"needs {PYTHON} with libnbd's binding (Debian: python3-libnbd)"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def libnbd(script: str, *arguments: str) -> str:
    """Run a script with ``h``, a handle, and ``sys.argv``; what it prints. It must end well."""
    begin = "import nbd, errno, os, struct, sys\nh = nbd.NBD()\n"
    done = subprocess.run(
        [PYTHON, "-I", "-c", begin + script, *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
