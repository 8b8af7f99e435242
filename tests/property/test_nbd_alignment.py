"""Unaligned writers on several connections, answered in any order, against a plain model."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from nbd.alignment import AlignedExport, RangeLocks
from nbd.export import Buffer, Done, Geometry

BLOCK, SIZE = 16, 16 * 12

steps = st.one_of(
    st.tuples(
        st.sampled_from(["write", "zero"]),
        st.integers(0, 2),
        st.integers(0, SIZE - 1),
        st.integers(1, 60),
    ),
    st.tuples(st.just("finish"), st.integers(0, 50)),
)


class Shuffled:
    """A disk whose operations are carried out in an order that the test chooses."""

    def __init__(self) -> None:
        self.geometry = Geometry(SIZE, minimum_block=BLOCK)
        self.store = bytearray(b"." * SIZE)
        self.waiting: list[tuple[str, int, int, bytes, Done]] = []
        self.writing: list[tuple[int, int]] = []

    def read(self, offset: int, length: int, done: Done) -> None:
        self.waiting.append(("read", offset, length, b"", done))

    def write(self, offset: int, data: Buffer, fua: bool, done: Done) -> None:
        assert offset % BLOCK == len(data) % BLOCK == 0
        self.waiting.append(("write", offset, len(data), bytes(data), done))

    def zero(self, offset: int, length: int, fua: bool, may_unmap: bool, done: Done) -> None:
        self.write(offset, bytes(length), fua, done)

    def trim(self, offset: int, length: int, fua: bool, done: Done) -> None:
        raise AssertionError("not used here")

    def flush(self, done: Done) -> None:
        raise AssertionError("not used here")

    def closed(self) -> None:
        raise AssertionError("not used here")

    def finish(self, which: int) -> None:
        kind, offset, length, data, done = self.waiting.pop(which % len(self.waiting))
        if kind == "read":
            done(0, bytes(self.store[offset : offset + length]))
        else:
            self.store[offset : offset + length] = data
            done(0, None)


@settings(deadline=None)
@given(script=st.lists(steps, max_size=40))
def test_every_byte_is_of_the_last_write_that_covered_it(script: list[tuple]) -> None:  # type: ignore[type-arg]
    """A byte written by one request holds its value; by several that overlapped in time, any
    of theirs. Bytes nobody wrote keep their value whatever their neighbours went through."""
    disk, locks = Shuffled(), RangeLocks()
    exports = [AlignedExport(disk, locks) for _ in range(3)]
    # For every byte: the values it may have. A request in flight adds its own; one that was
    # answered before another began is out of the race once that other is answered.
    began: dict[int, int] = {}
    ended: dict[int, int] = {}
    asked: list[tuple[int, int, int]] = []  # offset, end, value
    clock = 0

    def answered(number: int) -> Done:
        def done(errno: int, _data: Buffer | None) -> None:
            assert errno == 0
            assert number not in ended
            ended[number] = clock

        return done

    for step in script:
        clock += 1
        if step[0] == "finish":
            if disk.waiting:
                disk.finish(step[1])
            continue
        kind, who, offset, length = step
        length = min(length, SIZE - offset)
        number = len(asked)
        value = 0 if kind == "zero" else 65 + number
        asked.append((offset, offset + length, value))
        began[number] = clock
        if kind == "zero":
            exports[who].zero(offset, length, False, True, answered(number))
        else:
            exports[who].write(offset, bytes((value,)) * length, False, answered(number))
    while disk.waiting:
        clock += 1
        disk.finish(clock * 7)
    assert len(ended) == len(asked)
    for at in range(SIZE):
        writers = [n for n, (start, end, _) in enumerate(asked) if start <= at < end]
        last = [n for n in writers if not any(began[m] > ended[n] for m in writers)]
        assert disk.store[at] in ([asked[n][2] for n in last] or [ord(".")])
