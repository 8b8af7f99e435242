"""SQLite's loop: fail the 1st disk operation of a whole story, then the 2nd, ... to the last.

Whatever failed, every command is answered, every request gets its reply, and after the drive is
mended the pair comes to rest by itself, identical, with every acknowledged write in it.
"""

from __future__ import annotations

import pytest

from replblk.engine.ports import Answer
from replblk.model.notices import StateChanged
from replblk.model.vocabulary import ConnState, DiskState, OnIoError
from replblk.sim.disk import DriveFault
from replblk.sim.machine import Machine
from replblk.sim.world import SECOND_NS
from tests.support.lab import BLOCK, Lab
from tests.support.pair import Request

NAMES = ("alpha", "beta")


class Counter(DriveFault):
    """Counts operations of all kinds and strikes one (or, lasting, all from that one on)."""

    def __init__(self, nth: int, *, lasting: bool) -> None:
        super().__init__("any", "any")
        self.nth = nth
        self.lasting = lasting
        self.seen = 0

    def strikes(self, zone: str, kind: str, durable: bool) -> bool:
        self.seen += 1
        return self.seen == self.nth or (self.lasting and self.seen > self.nth)


class Story:
    """First writes, a disconnect, a switchover: with a disk that fails somewhere."""

    def __init__(self, sick: str, nth: int, *, lasting: bool, policy: OnIoError) -> None:
        self.lab = Lab(
            device_bytes=1 << 20,
            disk={"on_io_error": policy, "c_plan_ahead": 0, "resync_rate": 4000},
        )
        self.fault = Counter(nth, lasting=lasting)
        self.sick = sick
        self.policy = policy
        self.lab.drive(sick).faults.append(self.fault)
        self.doubtful: dict[int, set[int]] = {}
        """What each block may hold: the last acknowledged write and what failed since."""
        self.version = 0
        self.spoilt_alone = False
        """alpha alone passed an error on: as with DRBD its disk is Inconsistent from then on, and
        the peer's older data prevail when they meet."""
        self.lab.alpha.on_state.append(self._alpha_changed)

    def _alpha_changed(self, _: Machine, change: StateChanged) -> None:
        old, new = change.old, change.new
        if old.disk is DiskState.UP_TO_DATE and new.disk is DiskState.INCONSISTENT:
            self.spoilt_alone |= new.pdsk is not DiskState.UP_TO_DATE

    def tell(self) -> None:
        lab = self.lab
        for name in NAMES:
            lab.boot(name)
        self.settle()
        self.command("alpha", "primary")
        self.write("alpha", 0, 1, 2, 8, 9)
        lab.done(lab.submit("alpha", "flush", 0))
        self.command("beta", "disconnect")
        self.settle()
        self.write("alpha", 2, 4, 6, 8)
        if lab.state("beta").conn is ConnState.STANDALONE:
            self.command("beta", "connect")
        self.settle()
        self.write("alpha", 1, 4, 11)
        self.read("alpha", 4)
        if lab.state("beta").conn >= ConnState.CONNECTED:  # else it may lack what alpha has
            self.command("alpha", "secondary")
            self.command("beta", "primary")
            self.write("beta", 1, 9, 12)
            self.read("beta", 2)
        for name in NAMES:
            self.command(name, "down")

    def command(self, name: str, verb: str) -> Answer:
        """Its answer; a change that waits for another state is given a minute to come."""
        waiting = self.lab.ask(name, verb)
        self.lab.run_until(
            lambda: bool(waiting.answers), 100 * SECOND_NS, f"an answer to {verb} on {name}"
        )
        return waiting.answers[0]

    def settle(self) -> None:
        """Long enough for connecting and resyncing; it need not come to that."""
        self.lab.world.run_until(self.lab.is_in_sync, 5 * SECOND_NS)

    def write(self, name: str, *blocks: int) -> None:
        requests: list[tuple[int, int, Request]] = []
        for block in blocks:
            self.version += 1
            data = self.version.to_bytes(2, "big") * (BLOCK // 2)
            request = self.lab.submit(name, "write", block * BLOCK, BLOCK, data=data)
            requests.append((block, self.version, request))
        for block, version, request in requests:
            if self.lab.done(request).errno == 0:
                self.doubtful[block] = {version}
            else:
                self.doubtful.setdefault(block, {0}).add(version)

    def read(self, name: str, block: int) -> None:
        request = self.lab.done(self.lab.submit(name, "read", block * BLOCK, BLOCK))
        if request.errno == 0:
            self.judge(block, request.data)

    def judge(self, block: int, data: bytes) -> None:
        allowed = self.doubtful.get(block, {0})
        found = versions_in(data)
        assert self.spoilt_alone or found <= allowed, f"block {block}: {found}, not {allowed}"

    def mend_and_judge(self) -> None:
        lab = self.lab
        lab.drive(self.sick).heal()
        for name in NAMES:
            lab[name].kill()
        for name in NAMES:
            answer = lab.boot(name)
            assert answer.exit_code == 0, answer.text
        if all(lab.state(name).disk is DiskState.INCONSISTENT for name in NAMES):
            # A resync whose source could not read a block: somebody has to decide, and alpha,
            # which passed the error on, has all the rest.
            assert self.policy is OnIoError.PASS_ON
            lab.primary("alpha", force=True)
            if lab.state("alpha").conn is ConnState.STANDALONE:
                lab.connect("alpha")
        lab.in_sync()
        assert lab.differing_blocks() == []
        for block in self.doubtful:
            self.judge(block, lab.on_disk("alpha", block * BLOCK, BLOCK))


def versions_in(data: bytes) -> set[int]:
    """The versions of the sectors of a block: two of them if a failed write left it torn."""
    assert all(data[at : at + 2] == data[at // 512 * 512 :][:2] for at in range(0, BLOCK, 2))
    return {int.from_bytes(data[at : at + 2], "big") for at in range(0, BLOCK, 512)}


@pytest.mark.parametrize("policy", [OnIoError.DETACH, OnIoError.PASS_ON], ids=str)
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "for ever"])
@pytest.mark.parametrize("sick", NAMES)
def test_whichever_operation_fails(sick: str, lasting: bool, policy: OnIoError) -> None:
    nth = 1
    while True:
        story = Story(sick, nth, lasting=lasting, policy=policy)
        try:
            story.tell()
            if story.fault.seen < nth:
                break
            story.mend_and_judge()
        except AssertionError as error:
            raise AssertionError(f"operation {nth} of {sick}: {error}") from error
        nth += 1
    assert nth > 30
    assert story.lab.state("beta").disk in (DiskState.DISKLESS, DiskState.UP_TO_DATE)
