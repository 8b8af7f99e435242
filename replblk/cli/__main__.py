"""``python -m replblk.cli``: how ``up`` starts the daemon, whatever is on PATH."""

import sys

from replblk.cli.main import main

sys.exit(main())
