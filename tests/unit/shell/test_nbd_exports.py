"""Volumes as exports: names, refusals, the open count, and long requests in parts."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from nbd.export import Geometry, Refused
from replblk.engine.ports import CLIENT_DATA_BYTES_MAX, CLIENT_ZERO_BYTES_MAX, ClientRequest
from replblk.shell.client import Clients
from replblk.shell.nbd_exports import (
    HOLE_BYTES_MIN,
    PARTS_IN_FLIGHT_MAX,
    PIECES_MAX,
    VolumeExport,
    VolumeExports,
)
from tests.support.recorder import Recorder

MIB = 1 << 20
SENTENCE = "r0/0 is Secondary on alpha: 'replblk primary r0' there, or use the other node"


class Node(Recorder):
    """A Recorder that can also be opened."""

    def __init__(self) -> None:
        super().__init__()
        self.refusal: str | None = None
        self.open_counts = {0: 0, 3: 0}
        self.here = self.travel = True

    def open_device(self, volume: int, read_only: bool = False) -> str | None:
        if self.refusal is None:
            self.open_counts[volume] += 1
        return self.refusal

    def close_device(self, volume: int) -> None:
        self.open_counts[volume] -= 1

    def size_bytes(self, volume: int) -> int:
        return (volume + 1) << 30

    def out_of_sync(
        self, volume: int, offset: int, length: int, most: int
    ) -> list[tuple[int, bool]]:
        return [(4096, True), (length - 4096, False)][:most]

    def all_here(self, volume: int) -> bool:
        return self.here

    def zeroes_travel(self, volume: int) -> bool:
        return self.travel


class Disks:
    """A backing device with holes where the test says: (length, hole), then data."""

    def __init__(self) -> None:
        self.holes: list[tuple[int, bool]] = []
        self.punching = True

    def runs(self, volume: int, offset: int, length: int, most: int) -> list[tuple[int, bool]]:
        return self.holes[:most] or [(length, False)]

    def punches(self, volume: int) -> bool:
        return self.punching


class Bench:
    """Exports over a node that answers when the test says so."""

    def __init__(
        self, *volumes: int, undecided: Callable[[int], bool] = lambda volume: False
    ) -> None:
        self.node = Node()
        self.clients = Clients(self.node)
        self.disks = Disks()
        self.exports = VolumeExports(
            "r0", volumes or (0, 3), self.node, self.clients, self.disks, self.wake, undecided
        )
        self.wakes = 0
        self.answers: list[tuple[int, bytes | None]] = []

    def wake(self) -> None:
        self.wakes += 1

    def done(self, failed: int, data: object) -> None:
        assert data is None or isinstance(data, bytes | bytearray | memoryview)
        self.answers.append((failed, None if data is None else bytes(data)))

    def open(self, name: str = "0") -> VolumeExport:
        export = self.exports.open(name)
        assert isinstance(export, VolumeExport)
        return export

    def take(self) -> list[ClientRequest]:
        taken, self.node.requests = self.node.requests, []
        return taken

    def reply(self, request: ClientRequest, failed: int = 0, data: bytes | None = None) -> None:
        self.clients.reply(request.number, failed, data)
        self.clients.end_step()


def test_names_are_volume_numbers_and_the_empty_one_is_volume_0() -> None:
    bench = Bench()
    assert bench.exports.names() == [("0", "r0/0"), ("3", "r0/3")]
    assert bench.exports.look("") == bench.exports.look("0")
    look = bench.exports.look("3")
    assert isinstance(look, Geometry)
    assert look.size == 4 << 30
    assert bench.node.open_counts == {0: 0, 3: 0}, "looking is not using"


@pytest.mark.parametrize("name", ["1", "00", "r0", "0 ", "-0"])
def test_other_names_are_unknown_and_the_answer_names_those_that_are(name: str) -> None:
    refused = Bench().exports.open(name)
    assert isinstance(refused, Refused)
    assert refused.unknown
    assert "'0', '3'" in refused.text


def test_without_volume_0_the_only_volume_is_the_default() -> None:
    look = Bench(3).exports.look("")
    assert isinstance(look, Geometry)
    assert look.size == 4 << 30


def test_a_secondary_refuses_with_the_nodes_sentence() -> None:
    bench = Bench()
    bench.node.refusal = SENTENCE
    for refused in (bench.exports.look("0"), bench.exports.open("0")):
        assert refused == Refused(SENTENCE)


def test_a_node_that_may_yet_be_primary_again_asks_clients_to_come_back() -> None:
    bench = Bench(undecided=lambda volume: volume == 0)
    bench.node.refusal = SENTENCE
    for refused in (bench.exports.look("0"), bench.exports.open("")):
        assert refused == Refused(SENTENCE, later=True)
    assert bench.exports.open("3") == Refused(SENTENCE)


def test_each_connection_counts_as_a_user_until_it_is_closed() -> None:
    bench = Bench()
    first, second = bench.open(), bench.open()
    assert bench.node.open_counts[0] == 2
    first.closed()
    second.closed()
    assert bench.node.open_counts[0] == 0


def test_a_short_request_passes_as_it_is() -> None:
    bench = Bench()
    bench.open().write(4096, b"w" * 512, True, bench.done)
    [request] = bench.take()
    assert (request.kind, request.offset, request.length) == ("write", 4096, 512)
    assert request.fua
    assert bytes(request.data) == b"w" * 512
    assert bench.answers == []
    bench.reply(request)
    assert bench.answers == [(0, None)]


def test_a_long_write_goes_in_parts_and_is_answered_once() -> None:
    bench = Bench()
    data = bytes(range(256)) * 4096 * 3 + b"tail" * 128
    bench.open().write(512, data, False, bench.done)
    parts = bench.take()
    assert [len(part.data) for part in parts] == [CLIENT_DATA_BYTES_MAX] * 3 + [512]
    assert b"".join(bytes(part.data) for part in parts) == data
    assert [part.offset for part in parts] == [512 + n * CLIENT_DATA_BYTES_MAX for n in range(4)]
    for part in reversed(parts):
        assert bench.answers == []
        bench.reply(part)
    assert bench.answers == [(0, None)]


def test_a_long_read_is_put_together_in_order_whatever_the_answers_order() -> None:
    bench = Bench()
    bench.open().read(0, 2 * MIB + 512, bench.done)
    first, second, third = bench.take()
    bench.reply(third, data=b"3" * 512)
    bench.reply(first, data=b"1" * MIB)
    bench.reply(second, data=b"2" * MIB)
    assert bench.answers == [(0, b"1" * MIB + b"2" * MIB + b"3" * 512)]


def test_the_first_error_wins_and_is_told_when_no_part_is_in_flight() -> None:
    bench = Bench()
    bench.open().read(0, 3 * MIB, bench.done)
    first, second, third = bench.take()
    bench.reply(second, errno.EIO)
    bench.reply(first, data=bytes(MIB))
    assert bench.answers == []
    bench.reply(third, errno.EPERM)
    assert bench.answers == [(errno.EIO, None)]


@pytest.mark.parametrize("kind", ["zero", "trim"])
def test_a_huge_zero_or_trim_goes_a_few_parts_at_a_time(kind: str) -> None:
    bench = Bench()
    count = PARTS_IN_FLIGHT_MAX * 3
    length = count * CLIENT_ZERO_BYTES_MAX
    if kind == "zero":
        bench.open().zero(0, length, True, True, bench.done)
    else:
        bench.open().trim(0, length, True, bench.done)
    seen: list[ClientRequest] = bench.take()
    assert len(seen) == PARTS_IN_FLIGHT_MAX
    for number in range(count):
        bench.reply(seen[number])
        seen += bench.take()
    assert bench.answers == [(0, None)]
    assert sum(request.length for request in seen) == length
    assert {(request.kind, request.fua, request.unmap) for request in seen} == {(kind, True, True)}


def test_after_an_error_no_further_parts_are_begun() -> None:
    bench = Bench()
    bench.open().zero(0, 100 * CLIENT_ZERO_BYTES_MAX, False, False, bench.done)
    begun = bench.take()
    for request in begun:
        bench.reply(request, errno.ENOSPC)
    assert bench.take() == []
    assert bench.answers == [(errno.ENOSPC, None)]


def test_a_flush_is_one_request() -> None:
    bench = Bench()
    bench.open("3").flush(bench.done)
    [request] = bench.take()
    assert (request.kind, request.volume) == ("flush", 3)
    bench.reply(request)
    assert bench.answers == [(0, None)]


def test_replies_are_handed_out_after_the_step_not_inside_the_node() -> None:
    bench = Bench()
    bench.open().flush(bench.done)
    [request] = bench.take()
    bench.clients.reply(request.number, 0, None)
    assert bench.answers == []
    bench.clients.end_step()
    assert bench.answers == [(0, None)]


def pieces_of(bench: Bench, length: int) -> list[tuple[int, bytes | None]] | None:
    """Read in pieces from 0, answering every read with its offset's letter."""
    told: list[object] = []
    bench.open().read_pieces(0, length, lambda failed, pieces: told.extend((failed, pieces)))
    for request in bench.take():
        bench.reply(request, data=bytes([ord("a") + request.offset // MIB]) * request.length)
    assert told[0] == 0
    return told[1]  # type: ignore[return-value]


def test_a_read_of_a_sparse_file_reads_only_its_data() -> None:
    bench = Bench()
    bench.disks.holes = [(MIB, True), (MIB, False), (2 * MIB, True)]
    assert pieces_of(bench, 4 * MIB) == [(MIB, None), (MIB, b"b" * MIB), (2 * MIB, None)]


def test_what_the_search_did_not_reach_is_read() -> None:
    bench = Bench()
    bench.disks.holes = [(MIB, True)]
    assert pieces_of(bench, 2 * MIB) == [(MIB, None), (MIB, b"b" * MIB)]


def test_short_holes_are_read_like_data() -> None:
    bench = Bench()
    bench.disks.holes = [(4096, False), (4096, True), (MIB - 8192, False)]
    assert pieces_of(bench, MIB) == [(MIB, b"a" * MIB)]


def test_a_file_of_many_holes_is_read_whole() -> None:
    bench = Bench()
    bench.disks.holes = [(HOLE_BYTES_MIN, n % 2 == 0) for n in range(PIECES_MAX + 4)]
    length = HOLE_BYTES_MIN * (PIECES_MAX + 4)
    assert pieces_of(bench, length) == [(length, b"a" * length)]


def test_a_read_in_pieces_that_fails_is_one_error() -> None:
    bench = Bench()
    bench.disks.holes = [(MIB, False), (MIB, True), (MIB, False)]
    told: list[object] = []
    bench.open().read_pieces(0, 3 * MIB, lambda *answer: told.append(answer))
    first, second = bench.take()
    bench.reply(first, errno.EIO)
    assert told == []
    bench.reply(second, data=bytes(MIB))
    assert told == [(errno.EIO, None)]


def told_of(bench: Bench, context: str, length: int) -> list[tuple[int, int]]:
    told: list[object] = []
    bench.open().extents(context, 0, length, lambda *answer: told.extend(answer))
    assert told[0] == 0
    return told[1]  # type: ignore[return-value]


def test_allocation_is_told_from_the_files_holes_only_where_reads_are_answered_from_it() -> None:
    bench = Bench()
    bench.disks.holes = [(MIB, True), (MIB, False)]
    assert told_of(bench, "base:allocation", 2 * MIB) == [(MIB, 3), (MIB, 0)]
    bench.node.here = False
    assert told_of(bench, "base:allocation", 2 * MIB) == [(2 * MIB, 0)]
    assert pieces_of(bench, MIB) == [(MIB, b"a" * MIB)]


def test_the_dirty_bitmap_is_a_context_of_its_own() -> None:
    bench = Bench()
    look = bench.exports.look("0")
    assert isinstance(look, Geometry)
    assert look.contexts == ("replblk:dirty-bitmap",)
    assert told_of(bench, "replblk:dirty-bitmap", MIB) == [(4096, 1), (MIB - 4096, 0)]


def test_zeroes_are_fast_where_the_file_may_give_space_back_and_the_peer_takes_a_packet() -> None:
    bench = Bench()
    export = bench.open()
    assert export.zeroes_fast(0, MIB, True)
    assert not export.zeroes_fast(0, MIB, False), "kept allocated, it may have to be written"
    bench.node.travel = False
    assert not export.zeroes_fast(0, MIB, True)
    bench.node.travel, bench.disks.punching = True, False
    assert not export.zeroes_fast(0, MIB, True)


def test_open_exports_follow_a_device_that_changes_its_size() -> None:
    bench = Bench()
    export, other = bench.open("0"), bench.open("3")
    bench.exports.resized(0, 1 << 30, 2 << 30)
    assert export.geometry.size == 2 << 30
    assert other.geometry.size == 4 << 30
    export.closed()
    bench.exports.resized(0, 2 << 30, 1 << 30)
    assert export.geometry.size == 2 << 30
