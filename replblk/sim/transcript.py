"""What happened in a run, in order: readable lines, and one digest of them all.

A line is virtual time in nanoseconds, the machine (or ``world``), and what happened. Entries are
kept as format and arguments and become text only when somebody reads them, so that a run that
passes pays little; bytes among the arguments are shown as ``Told`` shows them. The same seed gives
the same text, byte for byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from replblk.sim.packet_names import Told


class Transcript:
    """The events of one run, oldest first."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, str, str, tuple[object, ...]]] = []
        """Virtual time, who, format, and what fills its ``{}`` and must never change afterwards."""

    def __len__(self) -> int:
        return len(self.entries)

    def lines(self, last: int | None = None) -> Iterator[str]:
        """The transcript as text, or its *last* lines."""
        chosen = self.entries if last is None else self.entries[-last:]
        for now_ns, who, text, args in chosen:
            if args:
                text = text.format(*[Told(arg) if type(arg) is bytes else arg for arg in args])
            yield f"{now_ns:>15,} {who:<5} {text}"

    def sha256(self) -> str:
        """Digest of all lines, each ended by a newline."""
        digest = hashlib.sha256()
        for line in self.lines():
            digest.update(line.encode())
            digest.update(b"\n")
        return digest.hexdigest()
