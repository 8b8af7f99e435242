"""Payloads to messages and back; on the way in, every field is judged.

``features`` are the agreed feature flags (FF_*), ``apv`` is the agreed protocol version: both
select layouts. Pads are ignored on receive and zero on send. What the bytes alone can show to be
wrong raises ``PeerError``; what needs a device size, a digest's length or a state to judge is left
to whoever knows it. Everything in ``commands`` and ``messages`` can be had from here too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from replblk.model.errors import PeerError
from replblk.model.fixed_layout import FixedLayout
from replblk.model.generation import JUST_CREATED
from replblk.model.state import State
from replblk.model.units import CAPACITY_SECTORS_MAX, DISCARD_BYTES_MAX, REQUEST_BYTES_MAX
from replblk.model.vocabulary import Code, Policy, Protocol
from replblk.wire.commands import *  # noqa: F403  (this file is the door to the other two)
from replblk.wire.commands import FF_WSAME, ID_IN_SYNC, ID_OUT_OF_SYNC, SPECS, STRING_BYTES, Cmd
from replblk.wire.hot import Buffer, judge_size
from replblk.wire.layouts import (
    P_FEATURES,
    P_PROTOCOL_FIXED,
    P_SIZES_FIXED,
    P_SIZES_WSAME,
    P_SYNC_PARAM_89,
    P_SYNC_PARAM_95,
    P_SYNC_PARAM_OLD,
    PLAIN,
)
from replblk.wire.messages import *  # noqa: F403
from replblk.wire.messages import (
    BlockAck,
    BlockDesc,
    BlockRange,
    BlockRequest,
    Features,
    Message,
    ProtocolPacket,
    Sizes,
    StateReply,
    StateWord,
    SyncParam,
    SyncUuid,
)

E = TypeVar("E", Protocol, Policy)

RATE_LIMITS: dict[str, tuple[int, int]] = {
    "resync_rate": (1, 8388608),
    "c_plan_ahead": (0, 300),
    "c_delay_target": (1, 100),
    "c_fill_target": (0, 1048576),
    "c_max_rate": (250, 4194304),
}
"""What a peer's controller settings are bent to: we adopt them, and c_plan_ahead sizes memory."""


# --- to bytes ------------------------------------------------------------------------------------


def encode(cmd: Cmd, msg: Message, *, features: int, apv: int) -> bytes:
    """The payload that says *msg*. Values that do not fit their field are a bug of ours."""
    if msg is None:
        return b""
    if isinstance(msg, bytes):
        return msg
    if isinstance(msg, ProtocolPacket):
        fixed = _build(P_PROTOCOL_FIXED, msg)
        return fixed + _name(msg.integrity_alg) + b"\0" if apv >= 87 else fixed
    if isinstance(msg, SyncParam):
        return _encode_sync_param(msg, apv)
    if isinstance(msg, Sizes):
        return _build(P_SIZES_WSAME if features & FF_WSAME else P_SIZES_FIXED, msg)
    plain = PLAIN[cmd]
    tail: bytes = getattr(msg, plain.tail) if plain.tail else b""
    return _build(plain.layout, msg) + tail


def sync_param_command(apv: int) -> Cmd:
    """The command that carries the synchronisation parameters at *apv*."""
    return Cmd.P_SYNC_PARAM89 if apv >= 89 else Cmd.P_SYNC_PARAM


def _encode_sync_param(msg: SyncParam, apv: int) -> bytes:
    names = {
        "verify_alg": _name(msg.verify_alg).ljust(STRING_BYTES, b"\0"),
        "csums_alg": _name(msg.csums_alg).ljust(STRING_BYTES, b"\0"),
    }
    if apv >= 89:
        return _build(P_SYNC_PARAM_95 if apv >= 95 else P_SYNC_PARAM_89, msg, **names)
    rate = _build(P_SYNC_PARAM_OLD, msg)
    return rate + _name(msg.verify_alg) + b"\0" if apv == 88 else rate


def _build(layout: Any, msg: object, **instead: bytes) -> bytes:
    fixed = _fixed(layout)
    return fixed.build({n: instead[n] if n in instead else getattr(msg, n) for n in fixed.names})


def _name(text: str) -> bytes:
    encoded = text.encode("ascii")
    assert len(encoded) < STRING_BYTES, "configuration admits no longer name"
    return encoded


# --- from bytes ----------------------------------------------------------------------------------


def decode(cmd: Cmd, payload: Buffer, *, features: int, apv: int) -> Message:
    """What a payload says; raises ``PeerError`` for every fault its bytes can show.

    Challenges, responses and bitmap chunks have no fields and come back as bytes.
    """
    spec = SPECS.get(cmd)
    if spec is None:
        raise PeerError(f"{cmd.name} is obsolete: nobody may send it")
    if not spec.fixed_len <= len(payload) <= spec.max_len:
        _refuse_length(cmd, payload, f"{spec.fixed_len} to {spec.max_len}")
    reader = _SPECIAL.get(cmd)
    if reader is not None:
        return reader(cmd, payload, features, apv)
    plain = PLAIN.get(cmd)
    if plain is None:
        return bytes(payload) if spec.max_len else None
    fields = _parse(plain.layout, payload)
    if plain.tail:
        fields[plain.tail] = bytes(payload[spec.fixed_len :])
    message: Message = plain.message(**fields)
    _judge(cmd, message)
    return message


def _judge(cmd: Cmd, msg: Message) -> None:
    name = cmd.name
    match msg:
        case BlockRange(sector=sector, size=size):
            judge_size(name, sector, size, 1, DISCARD_BYTES_MAX)
        case BlockRequest(sector=sector, blksize=size):
            judge_size(name, sector, size, 1, REQUEST_BYTES_MAX)
        case BlockAck(sector=sector, blksize=size, block_id=block_id):
            judge_size(name, sector, size, 0, DISCARD_BYTES_MAX)
            if cmd is Cmd.P_OV_RESULT and block_id not in (ID_IN_SYNC, ID_OUT_OF_SYNC):
                raise PeerError(f"{name} with result {block_id.hex()}: expected 4711 or 4712")
        case BlockDesc(sector=sector, blksize=size):
            most = DISCARD_BYTES_MAX if cmd is Cmd.P_OUT_OF_SYNC else REQUEST_BYTES_MAX
            judge_size(name, sector, size, 1, most)
        case StateWord(word=word):
            try:
                State.unpack(word)
            except ValueError as fault:
                raise PeerError(f"{name} {word:#010x} names no state: {fault}") from None
        case StateReply(retcode=retcode):
            if retcode not in Code._value2member_map_:
                raise PeerError(f"{name} with {retcode}, which is no state change result")
        case SyncUuid(uuid=uuid):
            if uuid in (0, JUST_CREATED):
                raise PeerError(f"{name} {uuid:#x} can't identify a resync")
        case _:
            pass


def _read_protocol(cmd: Cmd, payload: Buffer, features: int, apv: int) -> Message:
    fields = _parse(P_PROTOCOL_FIXED, payload)
    rest = bytes(payload[P_PROTOCOL_FIXED.sizeof() :])
    if apv < 87 and rest:
        _refuse_length(cmd, payload, f"24 at protocol version {apv}")
    if fields["two_primaries"] > 1:
        raise PeerError(f"{cmd.name} with two_primaries {fields['two_primaries']}: expected 0 or 1")
    return ProtocolPacket(
        protocol=_member(cmd, Protocol, "protocol", fields),
        after_sb_0p=_member(cmd, Policy, "after_sb_0p", fields),
        after_sb_1p=_member(cmd, Policy, "after_sb_1p", fields),
        after_sb_2p=_member(cmd, Policy, "after_sb_2p", fields),
        conn_flags=fields["conn_flags"],
        two_primaries=bool(fields["two_primaries"]),
        integrity_alg=_trailing_name(cmd, "integrity_alg", rest) if apv >= 87 else "",
    )


def _read_sync_param(cmd: Cmd, payload: Buffer, features: int, apv: int) -> Message:
    if cmd is not sync_param_command(apv):
        raise PeerError(
            f"{cmd.name} at protocol version {apv}: expected {sync_param_command(apv).name}"
        )
    if apv <= 88:
        rest = bytes(payload[P_SYNC_PARAM_OLD.sizeof() :])
        if apv < 88 and rest:
            _refuse_length(cmd, payload, f"4 at protocol version {apv}")
        fields = _parse(P_SYNC_PARAM_OLD, payload)
        if apv == 88:
            fields["verify_alg"] = _trailing_name(cmd, "verify_alg", rest)
    else:
        layout = P_SYNC_PARAM_95 if apv >= 95 else P_SYNC_PARAM_89
        if len(payload) != layout.sizeof():
            _refuse_length(cmd, payload, f"{layout.sizeof()} at protocol version {apv}")
        fields = _parse(layout, payload)
        for name in ("verify_alg", "csums_alg"):
            fields[name] = _text(cmd, name, fields[name])
    for name, (least, most) in RATE_LIMITS.items():
        if name in fields:
            fields[name] = min(max(fields[name], least), most)
    return SyncParam(**fields)


def _read_sizes(cmd: Cmd, payload: Buffer, features: int, apv: int) -> Message:
    layout = P_SIZES_WSAME if features & FF_WSAME else P_SIZES_FIXED
    if len(payload) != layout.sizeof():
        agreed = "agreed" if features & FF_WSAME else "not agreed"
        _refuse_length(cmd, payload, f"{layout.sizeof()} with write-same {agreed}")
    sizes = Sizes(**_parse(layout, payload))
    for name in ("d_size", "u_size", "c_size"):
        sectors = getattr(sizes, name)
        if sectors > CAPACITY_SECTORS_MAX:
            raise PeerError(
                f"{cmd.name} with {name} {sectors} sectors: no device has more than 2^51"
            )
    return sizes


def _read_features(cmd: Cmd, payload: Buffer, features: int, apv: int) -> Message:
    offer = Features(**_parse(P_FEATURES, payload))
    # A peer that knows one version only may leave the maximum out.
    return (
        offer
        if offer.protocol_max
        else Features(offer.protocol_min, offer.feature_flags, offer.protocol_min)
    )


_SPECIAL: dict[Cmd, Callable[[Cmd, Buffer, int, int], Message]] = {
    Cmd.P_CONNECTION_FEATURES: _read_features,
    Cmd.P_PROTOCOL: _read_protocol,
    Cmd.P_PROTOCOL_UPDATE: _read_protocol,
    Cmd.P_SYNC_PARAM: _read_sync_param,
    Cmd.P_SYNC_PARAM89: _read_sync_param,
    Cmd.P_SIZES: _read_sizes,
}


def _parse(layout: Any, payload: Buffer) -> dict[str, Any]:
    return _fixed(layout).parse(payload)


@cache
def _fixed(layout: Any) -> FixedLayout:
    return FixedLayout(layout)


def _member(cmd: Cmd, enum: type[E], name: str, fields: dict[str, Any]) -> E:
    value = fields[name]
    try:
        return enum(value)
    except ValueError:
        known = [int(member) for member in enum]
        raise PeerError(
            f"{cmd.name} with {name} {value}: expected {known[0]} to {known[-1]}"
        ) from None


def _trailing_name(cmd: Cmd, name: str, field: bytes) -> str:
    if field.find(b"\0") != len(field) - 1 or not field:
        raise PeerError(f"{cmd.name}: {name} must be a name that ends, with the packet, in a NUL")
    return _text(cmd, name, field)


def _text(cmd: Cmd, name: str, field: bytes) -> str:
    text, nul, _ = field.partition(b"\0")
    if not nul:
        raise PeerError(f"{cmd.name}: {name} has no NUL in its {len(field)} bytes")
    if not (text.isascii() and text.decode("ascii").isprintable()):
        raise PeerError(f"{cmd.name}: {name} {text!r} is not plain ASCII")
    return text.decode("ascii")


def _refuse_length(cmd: Cmd, payload: Buffer, wanted: str) -> None:
    raise PeerError(f"{cmd.name} with {len(payload)} bytes of payload: expected {wanted}")
