"""A recorded session of replblk with the kernel's DRBD: what passed, what replblk was told to do.

Stored as JSON, compressed with xz: small, and readable with xzcat. Times in microseconds from the
first event. Made by scripts/record_transcripts.py.
"""

from __future__ import annotations

import base64
import json
import lzma
from dataclasses import asdict, dataclass, field
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass
class Piece:
    """Bytes that *sender* ("kernel" or "replblk") sent; none: it closed the connection."""

    at: int
    sender: str
    data: bytes


@dataclass
class Connection:
    """One TCP connection."""

    opener: str
    opened: int
    pieces: list[Piece]


@dataclass
class Act:
    """A command for replblk, or a client's request (write, zero, trim, flush, read)."""

    at: int
    verb: str
    offset: int = 0
    data: bytes = b""
    length: int = 0
    options: dict[str, bool] = field(default_factory=dict)


@dataclass
class Recording:
    """A whole session. state: what /proc/drbd said of replblk at the end."""

    name: str
    told: str
    disk_bytes: int
    net: dict[str, str]
    acts: list[Act]
    connections: list[Connection]
    state: str

    def save(self, folder: Path = FOLDER) -> Path:
        """Write it to its file."""
        path = folder / f"{self.name}.json.xz"
        text = json.dumps(asdict(self), default=lambda raw: base64.b64encode(raw).decode())
        path.write_bytes(lzma.compress(text.encode(), preset=9))
        return path

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Read it back."""
        values = json.loads(lzma.decompress(path.read_bytes()))
        values["acts"] = [
            Act(**{**act, "data": base64.b64decode(act["data"])}) for act in values["acts"]
        ]
        values["connections"] = [
            Connection(
                found["opener"],
                found["opened"],
                [
                    Piece(piece["at"], piece["sender"], base64.b64decode(piece["data"]))
                    for piece in found["pieces"]
                ],
            )
            for found in values["connections"]
        ]
        return cls(**values)


def recordings() -> list[Path]:
    """Every stored session."""
    return sorted(FOLDER.glob("*.json.xz"))
