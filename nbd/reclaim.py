"""For a process without which a block device of its own machine stands still.

When memory is short, the kernel writes back pages, also to that device, and lets processes that
want memory wait for it, or ends one. Neither may happen to the one that is to take those pages.
Only for Linux 5.6 or newer; needs CAP_SYS_RESOURCE. Source: linux/prctl.h, proc(5).
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

PR_SET_IO_FLUSHER = 57
NEVER = -1000
"""Of oom_score_adj: this process is not ended because memory is short."""


def spare_this_process() -> list[str]:
    """From now on, with all threads and processes that it will start; returns what was refused."""
    refused = []
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0):
        refused.append(f"prctl(PR_SET_IO_FLUSHER): {os.strerror(ctypes.get_errno())}")
    try:
        Path("/proc/self/oom_score_adj").write_text(str(NEVER))
    except OSError as error:
        refused.append(f"oom_score_adj: {error.strerror}")
    return refused
