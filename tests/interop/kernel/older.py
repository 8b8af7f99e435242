"""``replblk`` as a node of an older protocol version, for a peer that knows newer ones.

Runs the command line given to it, with the protocol versions that it offers limited. Used as:
python -m tests.interop.kernel.older MIN MAX --config ... run r0
"""

from __future__ import annotations

import sys

from replblk.cli.main import main
from replblk.engine import handshake


def limit(least: int, most: int) -> None:
    """Offer these versions only."""
    handshake.PRO_VERSION_MIN, handshake.PRO_VERSION_MAX = least, most
    if most < 101:
        handshake.FEATURES_OFFERED = 0  # such a node has none; the kernel relies on it


if __name__ == "__main__":
    limit(int(sys.argv.pop(1)), int(sys.argv.pop(1)))
    sys.exit(main())
