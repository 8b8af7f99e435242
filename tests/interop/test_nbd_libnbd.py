"""libnbd's Python binding against our server: step by step, where its tools only do the usual."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from nbd.memory import MemoryDisk, MemoryExports
from tests.support.libnbd import libnbd, need_libnbd
from tests.support.nbd_served import LOOPS, Served, served

SIZE = 16 << 20
MIB = 1 << 20


@pytest.fixture
def exports() -> MemoryExports:
    return MemoryExports.single(SIZE, "disk", minimum_block=512)


@pytest.fixture(params=LOOPS)
def server(exports: MemoryExports, request: pytest.FixtureRequest) -> Iterator[Served]:
    need_libnbd()
    with served(exports, request.param) as running:
        yield running


@pytest.fixture
def disk(exports: MemoryExports) -> MemoryDisk:
    return exports.disks["disk"]


def test_a_structured_read_shows_holes_and_data(server: Served, disk: MemoryDisk) -> None:
    disk.put(MIB, b"x" * 8192)
    told = libnbd(
        """
import json
seen = []
def chunk(data, offset, status, error):
    seen.append((offset, len(data), status == nbd.READ_HOLE))
h.connect_uri(sys.argv[1])
for flags in (0, nbd.CMD_FLAG_DF):
    data = h.pread_structured(2 << 20, 0, chunk, flags)
    assert data == bytes(1 << 20) + b"x" * 8192 + bytes((1 << 20) - 8192)
print(json.dumps(seen))
""",
        server.uri("disk"),
    )
    *sparse, whole = json.loads(told)
    assert sparse == [[0, MIB, True], [MIB, 8192, False], [MIB + 8192, MIB - 8192, True]]
    assert whole == [0, 2 * MIB, False], "DF: one chunk, and no hole"


def test_fast_zero_is_refused_with_enotsup_where_it_would_be_slow(
    server: Served, disk: MemoryDisk
) -> None:
    disk.put(0, b"x" * MIB)
    libnbd(
        """
h.connect_uri(sys.argv[1])
assert h.can_fast_zero()
h.zero(65536, 0, nbd.CMD_FLAG_FAST_ZERO)
try:
    h.zero(512, 65536, nbd.CMD_FLAG_FAST_ZERO)
except nbd.Error as refused:
    assert refused.errnum in (errno.ENOTSUP, errno.EOPNOTSUPP), refused
else:
    raise AssertionError("512 bytes are not zeroed faster than they are written")
""",
        server.uri("disk"),
    )
    assert disk.content(0, MIB) == bytes(65536) + b"x" * (MIB - 65536)


def test_options_one_by_one(server: Served) -> None:
    """Haggling as no tool does it: list, info twice, a name that is not there, then go."""
    libnbd(
        """
h.set_opt_mode(True)
h.set_full_info(True)
h.connect_uri(sys.argv[1])
names = []
assert h.opt_list(lambda name, description: names.append(name) or 0) == 1
assert names == ["disk"], names
for _ in range(2):
    h.set_export_name("disk")
    h.opt_info()
    assert h.get_size() == 16 << 20
    assert h.get_export_description() == "a disk in memory"
h.set_export_name("nothing of that name")
try:
    h.opt_info()
except nbd.Error as refused:
    assert refused.errnum == errno.ENOENT, refused
else:
    raise AssertionError("an unknown export was told of")
h.set_export_name("disk")
contexts = []
h.opt_list_meta_context(lambda name: contexts.append(name) or 0)
assert contexts == ["base:allocation"], contexts
h.opt_go()
assert h.can_df()
h.shutdown()
""",
        server.uri("disk"),
    )


def test_a_thousand_writes_in_flight_from_four_connections(
    server: Served, disk: MemoryDisk
) -> None:
    libnbd(
        """
handles = [nbd.NBD() for _ in range(4)]
for one in handles:
    one.connect_uri(sys.argv[1])
    assert one.can_multi_conn()
done = []
for at in range(4000):
    one = handles[at % 4]
    data = nbd.Buffer.from_bytearray(bytearray(at.to_bytes(2, "big") * 2048))
    one.aio_pwrite(data, at * 4096, lambda error: done.append(error.value) or 1)
while len(done) < 4000:
    for one in handles:
        if one.aio_in_flight():
            one.poll(10)
assert not any(done), set(done)
handles[0].flush()
for at in range(0, 4000, 37):
    assert handles[3].pread(4096, at * 4096) == at.to_bytes(2, "big") * 2048
""",
        server.uri("disk"),
    )
    assert disk.content(3999 * 4096, 2) == (3999).to_bytes(2, "big")


def test_requests_that_no_tool_would_send_get_errors_and_the_connection_lives(
    server: Served,
) -> None:
    libnbd(
        """
h.connect_uri(sys.argv[1])
h.set_strict_mode(0)
def refused(work, *expected):
    try:
        work()
    except nbd.Error as bad:
        assert bad.errnum in expected, bad
    else:
        raise AssertionError("not refused")
refused(lambda: h.pread(512, 16 << 20), errno.EINVAL)
refused(lambda: h.pwrite(bytes(512), (16 << 20) - 256), errno.ENOSPC)
refused(lambda: h.zero(512, 16 << 20), errno.ENOSPC)
refused(lambda: h.trim(512, (1 << 64) - 512), errno.EINVAL)
refused(lambda: h.pread(512, 0, 1 << 14), errno.EINVAL)
refused(lambda: h.block_status(512, 16 << 20, lambda *told: 0), errno.EINVAL)
h.pwrite(b"still here".ljust(512), 0)
assert h.pread(512, 0).startswith(b"still here")
""",
        server.uri("disk"),
    )
