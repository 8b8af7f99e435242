"""``python -m replblk.sim``: see ``runner``."""

import sys

from replblk.sim.runner import main

if __name__ == "__main__":
    sys.exit(main())
