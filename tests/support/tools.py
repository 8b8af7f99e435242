"""External programs that tests use: absent ones skip with the reason, but fail the run in CI."""

from __future__ import annotations

import os
import shutil

import pytest


def need(*programs: str) -> None:
    """Go on only if every program is on PATH; else skip (or, with CI set, fail) saying which."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = [program for program in programs if shutil.which(program, path=path) is None]
    if not missing:
        return
    reason = f"needs {', '.join(missing)} on PATH (Debian: see .ci/run for the packages)"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
