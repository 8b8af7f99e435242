"""What happened in a run, in order: readable lines, and one digest of them all.

A line is virtual time in nanoseconds, the machine (or ``world``), and what happened. Entries are
kept as format and arguments and become text only when somebody reads them, so that a run that
passes pays little. The same seed gives the same text, byte for byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator


class Transcript:
    """The events of one run, oldest first."""

    def __init__(self) -> None:
        self._entries: list[tuple[int, str, str, tuple[object, ...]]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, now_ns: int, who: str, text: str, *args: object) -> None:
        """Something happened. *args* fill the ``{}`` of *text* and must never change afterwards."""
        self._entries.append((now_ns, who, text, args))

    def lines(self, last: int | None = None) -> Iterator[str]:
        """The transcript as text, or its *last* lines."""
        chosen = self._entries if last is None else self._entries[-last:]
        for now_ns, who, text, args in chosen:
            yield f"{now_ns:>15,} {who:<5} {text.format(*args) if args else text}"

    def sha256(self) -> str:
        """Digest of all lines, each ended by a newline."""
        digest = hashlib.sha256()
        for line in self.lines():
            digest.update(line.encode())
            digest.update(b"\n")
        return digest.hexdigest()
