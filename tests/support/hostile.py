"""Before and after an attack: what a hostile peer may cost (its connection) and what it may not."""

from __future__ import annotations

from replblk.model.vocabulary import DiskState, Role
from tests.support.lab import BLOCK
from tests.support.scripted_peer import Rig

MINE = b"untouched!!!" * 341 + b"...."


class Watch:
    """What must be the same after an attack as before."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.data = self._data()
        self.role = rig.state("alpha").role

    def _data(self) -> bytes:
        return self.rig.on_disk("alpha", 0, self.rig.drive("alpha").layout.usable_sectors * 512)

    def over(self, *, breaks: bool = True) -> None:
        """The connection broke (or not); the peer behaves again; all is as before."""
        rig = self.rig
        if breaks:
            rig.breaks()
        rig.peer.hang_up()
        rig.behave()
        state = rig.state("alpha")
        assert state.disk is DiskState.UP_TO_DATE
        assert state.role is self.role
        assert self._data() == self.data
        if self.role is Role.PRIMARY:
            rig.write("alpha", 200 * BLOCK, MINE)
            assert rig.read("alpha", 0, BLOCK) == MINE


def rig_with_data(**options: object) -> Rig:
    rig = Rig(**options)
    rig.drive("alpha").store.preset(0, MINE)
    return rig


def primary(**options: object) -> Rig:
    rig = rig_with_data(**options)
    rig.peer.obliging = True
    rig.meet()
    rig.primary("alpha")
    return rig
