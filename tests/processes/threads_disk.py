"""A daemon that reaches its disks by threads and plain system calls, though it could do better.

    python -m tests.processes.threads_disk <arguments of replblk>

So that what stands between a program and its system calls (strace, LD_PRELOAD) sees them all.
"""

from __future__ import annotations

import sys
from functools import partial

from replblk.cli.main import main
from replblk.shell import daemon
from replblk.shell.disks import FileDisks

if __name__ == "__main__":
    daemon.FileDisks = partial(FileDisks, ring=False, direct=False)  # type: ignore[misc,assignment]
    sys.exit(main(sys.argv[1:]))
