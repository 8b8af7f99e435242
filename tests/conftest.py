"""How property tests look for examples: without a clock, and in CI always for the same ones.

A crowded machine is no bug, and what chance finds is for whoever can look at it: a developer's run
draws new examples each time.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("developer", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "developer")
