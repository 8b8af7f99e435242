"""A peer that says anything at any time: nothing ever leaves ``Node.step`` but what it submits.

The script of a peer draws packets that are well-formed, half right and wrong, answers some of what
the node asked and not the rest, while clients and an administrator use the node. Afterwards the
peer hangs up, and every request and every command must still come to an end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replblk.model.generation import UuidSet
from replblk.model.state import State
from replblk.model.vocabulary import ConnState, DiskState, Role
from replblk.sim.disk import DriveFault
from replblk.sim.world import SECOND_NS
from replblk.wire.framing import Packet
from replblk.wire.hot import block_ack, block_request, data_header, parse_block_request, trim_header
from replblk.wire.packets import (
    ID_IN_SYNC,
    ID_OUT_OF_SYNC,
    ID_SYNCER,
    SPECS,
    Barrier,
    BarrierAck,
    BlockDesc,
    Cmd,
    Sizes,
    StateChange,
    StateReply,
    StateWord,
    SyncUuid,
    Uuids,
)
from tests.support.lab import BLOCK, Waiting
from tests.support.pair import Request
from tests.support.scripted_peer import Rig

BLOCKS = 248
"""Of the device of the rig (1 MiB less its metadata), a little more."""
MASK = (1 << 64) - 1
Act = Callable[["Run"], object]


class Run:
    """A rig and everything that was asked of its node."""

    def __init__(self, *, volumes: int) -> None:
        self.rig = Rig(
            volumes=volumes,
            ko_count=2,
            timeout=10,
            net={"verify_alg": "sha1"},
            disk={"c_plan_ahead": 0, "resync_rate": 4000},
        )
        self.rig.peer.verify_alg = "sha1"
        self.requests: list[Request] = []
        self.commands: list[Waiting] = []

    def send(self, cmd: Cmd, payload: bytes, volume: int) -> None:
        peer = self.rig.peer
        if len(payload) > 60000 and peer.apv < 100:
            return  # nothing is agreed yet: no header has room for it
        spec = SPECS.get(cmd)
        on = "meta" if spec is not None and spec.socket == "meta" else "data"
        peer.send_payload(cmd, payload, volume, on=on)  # type: ignore[arg-type]

    def say(self, cmd: Cmd, message: Any, volume: int) -> None:
        self.rig.peer.send(cmd, message, volume)

    def last(self, *cmds: Cmd) -> list[Packet]:
        return [packet for packet in self.rig.peer.packets[-30:] if packet.cmd in cmds]

    def io(self, kind: str, block: int, blocks: int) -> None:
        length = 0 if kind == "flush" else blocks * 2048
        data = b"c" * length if kind == "write" else b""
        if self.rig.alpha.serving_role is not Role.PRIMARY:
            return  # nobody serves clients then
        self.requests.append(self.rig.submit("alpha", kind, block * 2048, length, data=data))

    def command(self, verb: str, options: dict[str, object]) -> None:
        self.commands.append(self.rig.ask("alpha", verb, **options))


def acknowledge(run: Run, cmd: Cmd) -> None:
    for packet in run.last(Cmd.P_DATA, Cmd.P_ZEROES):
        run.rig.peer.ack(packet, cmd)


def barrier(run: Run, count: int) -> None:
    for packet in run.last(Cmd.P_BARRIER)[-1:]:
        run.say(Cmd.P_BARRIER_ACK, BarrierAck(bytes(packet.payload[:4]), count), 0)


def answer_reads(run: Run, cmd: Cmd) -> None:
    wanted = {
        Cmd.P_RS_DATA_REPLY: (Cmd.P_RS_DATA_REQUEST, Cmd.P_CSUM_RS_REQUEST),
        Cmd.P_DATA_REPLY: (Cmd.P_DATA_REQUEST,),
        Cmd.P_NEG_RS_DREPLY: (Cmd.P_RS_DATA_REQUEST,),
        Cmd.P_NEG_DREPLY: (Cmd.P_DATA_REQUEST,),
        Cmd.P_RS_DEALLOCATED: (Cmd.P_RS_DATA_REQUEST,),
    }[cmd]
    for packet in run.last(*wanted)[-8:]:
        sector, block_id, size = parse_block_request(packet.payload)
        if cmd is Cmd.P_RS_DEALLOCATED:
            run.say(cmd, BlockDesc(sector, size), packet.volume)
        elif cmd in (Cmd.P_NEG_RS_DREPLY, Cmd.P_NEG_DREPLY):
            run.send(cmd, block_ack(sector, block_id, size, 1), packet.volume)
        else:
            run.send(cmd, data_header(sector, block_id, 0, 0) + bytes(size), packet.volume)


def answer_changes(run: Run, code: int) -> None:
    if run.last(Cmd.P_STATE_CHG_REQ):
        run.say(Cmd.P_STATE_CHG_REPLY, StateReply(code), 0)
    if run.last(Cmd.P_CONN_ST_CHG_REQ):
        run.say(Cmd.P_CONN_ST_CHG_REPLY, StateReply(code), 0)


def fail_disk(run: Run, zone: str, kind: str) -> None:
    run.rig.drive("alpha").faults.append(DriveFault(zone, kind))


def meet_as(run: Run, uuids: str, disk: DiskState, role: Role, flags: int) -> None:
    """Hang up; the next handshake says this of the peer."""
    peer = run.rig.peer
    node = run.rig.alpha.node
    assert node is not None
    own: UuidSet = node.volumes[0].uuids
    peer.uuids = {
        "same": own,
        "newer": own.new_current(0x5555 << 32, primary=True),
        "older": UuidSet(own.bitmap or own.current, 0, own.history0, own.history1),
        "fresh": UuidSet(),
        "strange": UuidSet(0x1111 << 32, 0x2222 << 32, 0x3333 << 32, 0x4444 << 32),
        "fork": UuidSet(0x6666 << 32, own.bitmap or own.current, 0, 0),
    }[uuids]
    peer.disk, peer.role, peer.uuid_flags = disk, role, flags
    peer.hang_up()
    if run.rig.alpha.connection is ConnState.STANDALONE:
        run.command("connect", {})
    run.rig.world.run_until(lambda: run.rig.alpha.connection >= ConnState.CONNECTED, 10 * SECOND_NS)


def bitmap(run: Run, fill: bytes = b"\xff") -> None:
    """The whole bitmap of the peer, as it should be."""
    node = run.rig.alpha.node
    assert node is not None
    bits = -(-node.size_bytes(0) // BLOCK)
    words = -(-bits // 64)
    run.send(Cmd.P_BITMAP, fill * (8 * words), 0)
    run.send(Cmd.P_BITMAP, b"", 0)


def sync_uuid(run: Run) -> None:
    """P_SYNC_UUID, as a source would."""
    run.say(Cmd.P_SYNC_UUID, SyncUuid(run.rig.peer.uuids.bitmap + (1 << 48) & MASK), 0)


def reach(run: Run, stage: str) -> None:
    """Bring the node into the middle of something."""
    rig = run.rig
    if stage in ("primary", "diskless"):
        run.command("primary", {})
        rig.run_for(0.01)
    if stage == "diskless":
        run.command("detach", {})
    elif stage in ("target", "target primary"):
        meet_as(run, "newer", DiskState.UP_TO_DATE, Role.SECONDARY, 0)
        bitmap(run)
        rig.run_for(0.01)
        sync_uuid(run)
        if stage == "target primary":
            run.command("primary", {})
    elif stage in ("source", "source primary"):
        if stage == "source primary":
            run.command("primary", {})
            rig.run_for(0.01)
        meet_as(run, "fresh", DiskState.INCONSISTENT, Role.SECONDARY, 0)
        rig.run_for(0.01)
        bitmap(run)
    elif stage == "verify":
        run.command("verify", {})
    elif stage == "alone":
        rig.peer.ports.links.listen(False)
        rig.peer.hang_up()
        rig.run_for(0.01)
        rig.peer.ports.links.listen(True)
        run.command("primary", {})
    rig.run_for(0.01)


STAGES = (
    *("secondary", "primary", "diskless", "target", "target", "target primary", "source"),
    *("source primary", "verify", "alone"),
)


# -- what may happen --------------------------------------------------------------------------

volumes = st.sampled_from([0, 0, 0, 0, 1])
sectors = st.sampled_from([0, 0, 8, 16, 1, 800, BLOCKS * 8, 1 << 40, (1 << 64) - 8])
sizes = st.sampled_from([4096, 4096, 4096, 512, 8192, 65536, 0, 100, 1 << 20, 2 << 20])
ids = st.sampled_from(
    [ID_SYNCER, ID_SYNCER, b"12345678", ID_IN_SYNC, ID_OUT_OF_SYNC, bytes(7) + b"\1"]
)
flag_words = st.sampled_from([0, 4, 64, 128, 256, 256, 260, 272, 288, 1024, 0xFFFFFFFF])
u64s = st.sampled_from([0, 4, 1, 2, 0x1111 << 32, (1 << 64) - 1])
states = st.builds(
    State,
    role=st.sampled_from(Role),
    peer=st.sampled_from(Role),
    conn=st.sampled_from(ConnState),
    disk=st.sampled_from(DiskState),
    pdsk=st.sampled_from(DiskState),
    aftr_isp=st.booleans(),
    user_isp=st.booleans(),
).map(State.packed)

block_packets = st.builds(
    lambda cmd, sector, block_id, size, flags, volume: (
        lambda run: run.send(
            cmd, data_header(sector, block_id, 1, flags) + bytes(min(size, 1 << 20)), volume
        )
    ),
    st.sampled_from([Cmd.P_DATA, Cmd.P_DATA, Cmd.P_DATA_REPLY, Cmd.P_RS_DATA_REPLY]),
    *(sectors, ids, sizes, flag_words, volumes),
)
trims = st.builds(
    lambda cmd, sector, block_id, size, flags, volume: (
        lambda run: run.send(cmd, trim_header(sector, block_id, 1, flags, size), volume)
    ),
    st.sampled_from([Cmd.P_TRIM, Cmd.P_ZEROES, Cmd.P_WSAME]),
    *(sectors, ids, sizes, flag_words, volumes),
)
requests = st.builds(
    lambda cmd, sector, block_id, size, tail, volume: (
        lambda run: run.send(cmd, block_request(sector, block_id, size) + tail, volume)
    ),
    st.sampled_from(
        [
            *(Cmd.P_DATA_REQUEST, Cmd.P_RS_DATA_REQUEST, Cmd.P_RS_THIN_REQ, Cmd.P_OV_REQUEST),
            *(Cmd.P_OV_REPLY, Cmd.P_CSUM_RS_REQUEST),
        ]
    ),
    *(sectors, ids, sizes, st.sampled_from([b"", b"", b"d" * 20]), volumes),
)
acks = st.builds(
    lambda cmd, sector, block_id, size, volume: (
        lambda run: run.send(cmd, block_ack(sector, block_id, size, 1), volume)
    ),
    st.sampled_from(
        [
            *(Cmd.P_WRITE_ACK, Cmd.P_RS_WRITE_ACK, Cmd.P_RECV_ACK, Cmd.P_NEG_ACK),
            *(Cmd.P_NEG_DREPLY, Cmd.P_NEG_RS_DREPLY, Cmd.P_RS_CANCEL, Cmd.P_OV_RESULT),
            *(Cmd.P_RS_IS_IN_SYNC, Cmd.P_SUPERSEDED, Cmd.P_RETRY_WRITE),
        ]
    ),
    *(sectors, ids, sizes, volumes),
)
messages = st.builds(
    lambda pair, volume: lambda run: run.say(pair[0], pair[1], volume),
    st.one_of(
        st.tuples(st.just(Cmd.P_STATE), st.builds(StateWord, states)),
        st.tuples(st.just(Cmd.P_STATE), st.builds(StateWord, states)),
        st.tuples(
            st.just(Cmd.P_UUIDS), st.builds(Uuids, u64s, u64s, u64s, u64s, u64s, st.integers(0, 15))
        ),
        st.tuples(
            st.just(Cmd.P_SIZES),
            st.builds(
                Sizes, sectors, sectors, sectors, st.just(1 << 20), st.just(0), st.integers(0, 3)
            ),
        ),
        st.tuples(
            st.sampled_from([Cmd.P_STATE_CHG_REQ, Cmd.P_CONN_ST_CHG_REQ]),
            st.builds(
                StateChange,
                st.sampled_from([0x3, 0x1E03, 0x1E00, 0x1F0, 0x1E1F0, 0x1FF0, 0xFFFFFFFF]),
                st.sampled_from(
                    [0x1, 0x1001, 0x400, 0xC0, 0xB0, 0x120, 0x10, 0xA010, 0xA10, 0, 0xFFFFFFFF]
                ),
            ),
        ),
        st.tuples(st.just(Cmd.P_SYNC_UUID), st.builds(SyncUuid, u64s)),
        st.tuples(st.just(Cmd.P_BARRIER), st.just(Barrier(b"1234"))),
        st.tuples(st.just(Cmd.P_BARRIER_ACK), st.builds(BarrierAck, st.just(bytes(4)), sizes)),
        st.tuples(
            st.sampled_from([Cmd.P_OUT_OF_SYNC, Cmd.P_RS_DEALLOCATED]),
            st.builds(BlockDesc, sectors, sizes),
        ),
        st.tuples(st.sampled_from([Cmd.P_PING, Cmd.P_PING_ACK, Cmd.P_UNPLUG_REMOTE]), st.none()),
        st.tuples(
            st.sampled_from([Cmd.P_STATE_CHG_REPLY, Cmd.P_CONN_ST_CHG_REPLY]),
            st.builds(StateReply, st.integers(-21, 4)),
        ),
    ),
    volumes,
)
bitmaps = st.builds(
    lambda pair, volume: lambda run: run.send(pair[0], pair[1], volume),
    st.one_of(
        st.tuples(
            st.just(Cmd.P_BITMAP), st.sampled_from([b"", b"\xff" * 32, bytes(32), bytes(8), b"x"])
        ),
        st.tuples(
            st.just(Cmd.P_COMPRESSED_BITMAP),
            st.one_of(
                st.binary(min_size=2, max_size=12),
                st.sampled_from([b"\xa2\xdf\x18", b"\x22\xdf\x18", b"\xb2\x7f\xcf\xde\x0f"]),
            ),
        ),
    ),
    volumes,
)
garbage = st.builds(
    lambda socket, data: lambda run: run.rig.peer.raw(getattr(run.rig.peer, socket), data),
    st.sampled_from(["data", "meta"]),
    st.binary(min_size=1, max_size=40),
)
unknown = st.builds(
    lambda cmd, payload, volume: lambda run: run.send(cmd, payload, volume),
    st.sampled_from([cmd for cmd in Cmd if cmd not in (Cmd.P_INITIAL_DATA, Cmd.P_INITIAL_META)]),
    st.one_of(st.just(b""), st.binary(max_size=80)),
    volumes,
)
manners = st.one_of(
    st.builds(
        lambda fill: lambda run: bitmap(run, fill), st.sampled_from([b"\xff", b"\0", b"\x12"])
    ),
    st.just(sync_uuid),
    st.builds(
        lambda cmd: lambda run: acknowledge(run, cmd),
        st.sampled_from([Cmd.P_WRITE_ACK, Cmd.P_RS_WRITE_ACK, Cmd.P_NEG_ACK, Cmd.P_RECV_ACK]),
    ),
    st.builds(lambda count: lambda run: barrier(run, count), st.integers(0, 3)),
    st.builds(
        lambda cmd: lambda run: answer_reads(run, cmd),
        st.sampled_from(
            [
                *(Cmd.P_RS_DATA_REPLY, Cmd.P_DATA_REPLY, Cmd.P_NEG_RS_DREPLY, Cmd.P_NEG_DREPLY),
                Cmd.P_RS_DEALLOCATED,
            ]
        ),
    ),
    st.builds(
        lambda code: lambda run: answer_changes(run, code), st.sampled_from([1, 1, 2, -1, -18, -19])
    ),
    st.builds(
        lambda on: lambda run: setattr(run.rig.peer, "obliging", on),
        st.booleans(),
    ),
    st.builds(lambda on: lambda run: setattr(run.rig.peer, "consents", on), st.booleans()),
    st.builds(
        lambda *said: lambda run: meet_as(run, *said),
        st.sampled_from(["same", "same", "newer", "newer", "older", "fresh", "strange", "fork"]),
        st.sampled_from(
            [DiskState.UP_TO_DATE, DiskState.UP_TO_DATE, *list(DiskState)],
        ),
        st.sampled_from([Role.SECONDARY, Role.SECONDARY, Role.PRIMARY]),
        st.sampled_from([0, 0, 1, 2, 4, 8]),
    ),
)
local = st.one_of(
    st.builds(
        lambda kind, block, blocks: lambda run: run.io(kind, block, blocks),
        st.sampled_from(["write", "write", "read", "flush", "zero", "trim"]),
        st.integers(0, 20),
        st.integers(1, 5),
    ),
    st.builds(
        lambda verb, force: lambda run: run.command(verb, {"force": force} if force else {}),
        st.sampled_from(
            [
                *("primary", "primary", "secondary", "connect", "disconnect", "attach", "detach"),
                *("invalidate", "invalidate-remote", "outdate", "pause-sync", "resume-sync", "up"),
                "verify",
            ]
        ),
        st.booleans(),
    ),
    st.builds(
        lambda zone, kind: lambda run: fail_disk(run, zone, kind),
        st.sampled_from(["data", "bitmap", "al", "superblock"]),
        st.sampled_from(["read", "write", "flush"]),
    ),
)
pauses = st.builds(
    lambda seconds: lambda run: run.rig.run_for(seconds),
    st.sampled_from([0.00005, 0.0003, 0.002, 0.1, 0.6, 2.5]),
)
acts: st.SearchStrategy[Act] = st.one_of(
    *(block_packets, trims, requests, acks, messages, messages, bitmaps, garbage, unknown),
    *(manners, manners, manners, local, local, pauses, pauses),
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
@given(
    acts=st.lists(acts, min_size=1, max_size=25),
    stage=st.sampled_from(STAGES),
    volume_count=st.sampled_from([1, 1, 2]),
)
def test_whatever_a_peer_says_the_node_lives(
    acts: list[Act], stage: str, volume_count: int
) -> None:
    run = Run(volumes=volume_count)
    rig = run.rig
    rig.world.run_until(lambda: rig.alpha.connection >= ConnState.CONNECTED, 10 * SECOND_NS)
    reach(run, stage)
    for act in acts:
        act(run)
        rig.run_for(0.0002)
    # The end of it: the peer is gone for good. Nothing may hang.
    rig.peer.ports.links.listen(False)
    rig.peer.hang_up()
    rig.drive("alpha").heal()
    rig.world.run_until(
        lambda: all(r.done for r in run.requests) and all(c.answers for c in run.commands),
        200 * SECOND_NS,
    )
    assert all(request.done for request in run.requests), "a request was never answered"
    assert all(command.answers for command in run.commands), "a command was never answered"
    assert rig.alpha.alive
    node = rig.alpha.node
    assert node is not None
    node.status()
    if rig.state("alpha").disk is DiskState.UP_TO_DATE and rig.state("alpha").role is Role.PRIMARY:
        rig.write("alpha", 0, b"still here" * 409 + b"......")
        assert rig.read("alpha", 0, BLOCK)[:10] == b"still here"
