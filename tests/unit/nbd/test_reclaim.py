"""A process that serves its own machine's block device is spared, or told why it is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import json
from pathlib import Path
from nbd.reclaim import spare_this_process
refused = spare_this_process()
flags = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[6])
print(json.dumps([refused, int(Path("/proc/self/oom_score_adj").read_text()), flags]))
"""
MEMALLOC_NOIO = 0x80000
"""linux/sched.h: PF_MEMALLOC_NOIO, half of what PR_SET_IO_FLUSHER sets."""


def told() -> tuple[list[str], int, int]:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True)
    refused, score, flags = json.loads(done.stdout)
    return refused, score, flags


def test_spared_or_told_why_not() -> None:
    refused, score, flags = told()
    assert (score == -1000) is not any("oom_score_adj: " in text for text in refused)
    if os.geteuid() != 0:
        assert len(refused) == 2
        pytest.skip("needs root for more")
    assert bool(flags & MEMALLOC_NOIO) is not any("IO_FLUSHER" in text for text in refused)
