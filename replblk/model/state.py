"""The state vector of a volume, and the 32-bit word DRBD packs it in (union drbd_state)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

from replblk.model.vocabulary import ConnState, DiskState, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a node knows of one volume: its own side and its view of the peer's."""

    role: Role = Role.SECONDARY
    peer: Role = Role.UNKNOWN
    conn: ConnState = ConnState.STANDALONE
    disk: DiskState = DiskState.DISKLESS
    pdsk: DiskState = DiskState.DUNKNOWN
    susp: bool = False
    aftr_isp: bool = False
    peer_isp: bool = False
    user_isp: bool = False
    susp_nod: bool = False
    susp_fen: bool = False

    def but(self, **changes: Any) -> State:
        """The same state with some fields changed."""
        return State(**(dict(zip(_FIELDS, _values(self), strict=True)) | changes))

    @property
    def suspended(self) -> bool:
        """Whether application I/O waits, for whatever reason."""
        return self.susp or self.susp_nod or self.susp_fen

    @property
    def serves_diskless(self) -> bool:
        """Whether the peer is Primary and has no disk: ours is all that it has."""
        return self.peer is Role.PRIMARY and self.pdsk < DiskState.INCONSISTENT

    def packed(self) -> int:
        """The state word: role 0-1, peer 2-3, conn 4-8, disk 9-12, pdsk 13-16, flags 17-22."""
        return (
            self.role
            | self.peer << 2
            | self.conn << 4
            | self.disk << 9
            | self.pdsk << 13
            | self.susp << 17
            | self.aftr_isp << 18
            | self.peer_isp << 19
            | self.user_isp << 20
            | self.susp_nod << 21
            | self.susp_fen << 22
        )

    @classmethod
    def unpack(cls, word: int) -> State:
        """State from a word; raises ValueError when a field holds a number that names no state."""
        return cls(
            role=Role(word & 3),
            peer=Role(word >> 2 & 3),
            conn=ConnState(word >> 4 & 31),
            disk=DiskState(word >> 9 & 15),
            pdsk=DiskState(word >> 13 & 15),
            susp=bool(word >> 17 & 1),
            aftr_isp=bool(word >> 18 & 1),
            peer_isp=bool(word >> 19 & 1),
            user_isp=bool(word >> 20 & 1),
            susp_nod=bool(word >> 21 & 1),
            susp_fen=bool(word >> 22 & 1),
        )

    def __str__(self) -> str:
        return (
            f"{{ cs:{self.conn} ro:{self.role}/{self.peer} "
            f"ds:{self.disk}/{self.pdsk} {self.letters()} }}"
        )

    def letters(self) -> str:
        """DRBD's six flag letters in log lines: s a p u F N, with r for running and - for unset."""
        return "".join(
            letter if on else other
            for letter, other, on in (
                ("s", "r", self.suspended),
                ("a", "-", self.aftr_isp),
                ("p", "-", self.peer_isp),
                ("u", "-", self.user_isp),
                ("F", "-", self.susp_fen),
                ("N", "-", self.susp_nod),
            )
        )

    def difference(self, new: State) -> str:
        """DRBD's log form of a change, ``role( Secondary -> Primary ) ...``; "" if equal."""
        parts = [
            f"{name}( {_show(old)} -> {_show(now)} )"
            for name in ("role", "peer", "conn", "disk", "pdsk")
            if (old := getattr(self, name)) != (now := getattr(new, name))
        ]
        if self.suspended != new.suspended:
            parts.append(f"susp( {int(self.suspended)} -> {int(new.suspended)} )")
        parts += [
            f"{name}( {int(getattr(self, name))} -> {int(getattr(new, name))} )"
            for name in ("aftr_isp", "peer_isp", "user_isp")
            if getattr(self, name) != getattr(new, name)
        ]
        return " ".join(parts)


_FIELDS = tuple(field.name for field in fields(State))
_values = attrgetter(*_FIELDS)


def _show(value: object) -> str:
    return str(value)
