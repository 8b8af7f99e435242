"""Prepares what the tests against the Linux kernel's DRBD need: ``make interop`` runs it first.

Checks the programs of this host, fetches Debian packages for the guest into a cache
($REPLBLK_INTEROP_CACHE, default ~/.cache/replblk-interop; some 700 MB) and builds its initramfs.
Nothing is installed. Exit status 1, with a sentence, if something is missing.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.interop.kernel.initramfs import prepared
from tests.interop.kernel.packages import SetupError, missing_programs


def main() -> int:
    """Prepare; the exit status."""
    if missing := missing_programs():
        packages = " ".join(sorted(set(missing.values())))
        print(f"missing: {', '.join(missing)}. On Debian: apt install {packages}", file=sys.stderr)
        return 1
    began = time.monotonic()
    try:
        cache = prepared()
    except SetupError as error:
        print(f"the guest can't be prepared: {error}", file=sys.stderr)
        return 1
    print(f"{cache} is ready ({time.monotonic() - began:.1f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
