"""The activity log against a naive model: a crash at any moment finds every extent in use."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from replblk.meta.activity_log import ActivityLog, Change
from replblk.meta.al_transaction import CONTEXT_SLOTS, Transaction, initialised_block, replay

EXTENTS = st.integers(0, 200)


class ActivityLogAgainstDisk(RuleBasedStateMachine):
    """A node that writes the ring as it is told, and may be looked at after a crash any time."""

    @initialize(
        slots=st.sampled_from([5, 67, 1237, 2500]),
        blocks=st.sampled_from([8, 12]),
        fresh=st.booleans(),
        number=st.sampled_from([5, 2**32 - 24, 2**32 - 4]),
    )
    def start(self, slots: int, blocks: int, fresh: bool, number: int) -> None:
        self.log = ActivityLog(slots, first_number=0 if fresh else number)
        self.ring = [initialised_block()] * blocks
        if not fresh:
            self.ring = self.log.initial_blocks(blocks)
        self.change: Change | None = None
        self.held: list[int] = []
        self.used: dict[int, None] = {}  # hot extents as a model knows them, least recent first

    @rule(extents=st.lists(EXTENTS, min_size=1, max_size=90))
    def prepare(self, extents: list[int]) -> None:
        if self.change:
            return
        before = set(self.log.hot_extents())
        change = self.log.prepare(extents)
        cold = list(dict.fromkeys(extent for extent in extents if extent not in before))
        if change is None:
            full = len(before) == self.log.slots
            assert not cold or (full and (self.held or not before - set(extents)))
            return
        assert change.taken == tuple(cold[: len(change.taken)])
        assert 0 < len(change.taken) <= 64
        assert not set(change.evicted) & set(self.held)
        for extent in change.evicted:
            assert not self.log.is_hot(extent)
            asked_for = extent in extents
            older = list(self.used)[: list(self.used).index(extent)]
            assert asked_for or all(
                other in self.held or other in extents or other in change.evicted for other in older
            )
        for extent in change.evicted:
            del self.used[extent]
        self.change = change

    @rule(torn=st.booleans())
    def commit(self, torn: bool) -> None:
        if not self.change:
            return
        transaction = self.change.transaction
        at, block = transaction.number % len(self.ring), transaction.encode()
        if torn:  # look at it as a crash in the middle of the write would leave it
            ring = list(self.ring)
            ring[at] = block[:512] + bytes(3584)
            assert set(replay(ring).extents) >= set(self.held)
            assert replay(ring).usable
        self.ring[at] = block
        self.log.commit(self.change)
        self.used.update(dict.fromkeys(self.change.taken))
        self.change = None

    @rule(extent=EXTENTS)
    def get(self, extent: int) -> None:
        hot = extent in self.used
        assert self.log.is_hot(extent) == hot
        assert self.log.get(extent) == hot
        if hot:
            self.held.append(extent)

    @rule(which=st.integers(0, 1000))
    def put(self, which: int) -> None:
        if self.held:
            extent = self.held.pop(which % len(self.held))
            self.log.put(extent)
            if extent not in self.held:
                del self.used[extent]
                self.used[extent] = None

    @rule(blocks=st.sampled_from([8, 16]))
    def move(self, blocks: int) -> None:
        if not self.change:
            self.ring = self.log.initial_blocks(blocks)

    @invariant()
    def crash_finds_what_is_hot(self) -> None:
        found = replay(self.ring)
        evicted = set(self.change.evicted) if self.change else set()
        assert found.usable
        assert found.corrupt == 0
        assert found.extents == sorted(set(self.used) | evicted)
        assert self.log.hot_extents() == sorted(self.used)
        assert self.log.held == len(set(self.held))


TestActivityLogAgainstDisk = ActivityLogAgainstDisk.TestCase
# Every step replays a ring: fewer and shorter runs than usual keep this within seconds.
TestActivityLogAgainstDisk.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None
)

U16, U32 = st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
TRANSACTIONS = st.builds(
    Transaction,
    U32,
    st.lists(st.tuples(U16, U32), max_size=64).map(tuple),
    U16,
    U16,
    st.lists(st.integers(0, 0xFFFFFFFE), max_size=CONTEXT_SLOTS).map(tuple),
)


@given(TRANSACTIONS)
def test_transaction_survives_the_round_trip(transaction: Transaction) -> None:
    assert Transaction.decode(transaction.encode()) == transaction


@settings(max_examples=25)
@given(
    st.lists(TRANSACTIONS, min_size=2, max_size=8, unique_by=lambda t: t.number),
    st.integers(0, 7),
    st.integers(0, 4095),
    st.integers(1, 255),
)
def test_one_damaged_block_is_skipped_as_a_whole(
    transactions: list[Transaction], which: int, at: int, flip: int
) -> None:
    """Replay of a ring with a flipped byte is the replay of the ring without that block."""
    blocks = [transaction.encode() for transaction in transactions]
    which %= len(blocks)
    damaged = bytearray(blocks[which])
    damaged[at] ^= flip
    found = replay([*blocks[:which], bytes(damaged), *blocks[which + 1 :]])
    assert found.corrupt == 1
    assert found.extents == replay(blocks[:which] + blocks[which + 1 :]).extents


@given(st.lists(st.binary(max_size=200), max_size=4))
def test_hostile_rings_are_only_corrupt(junk: list[bytes]) -> None:
    blocks = [data.ljust(4096, b"\0") for data in junk]
    found = replay(blocks)
    assert (found.corrupt, found.extents, found.any_magic) == (len(blocks), [], False)
