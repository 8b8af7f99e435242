"""From two proven sockets to exchanged parameters: features, authentication, settings.

    P_CONNECTION_FEATURES ◄─► [P_AUTH_CHALLENGE, P_AUTH_RESPONSE ◄─►] P_PROTOCOL ─►
    for every volume: P_SYNC_PARAM89, P_SIZES, P_UUIDS (with a disk), P_STATE ─► WFReportParams

Nothing waits for the peer between P_PROTOCOL and the last P_STATE. A failed authentication costs
the connection and nothing else: whoever knows no secret must not be able to stop the pair (DRBD
itself goes StandAlone). The same holds for everything before it. Source: protocol, handshake.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from replblk.engine.context import TENTH_NS
from replblk.engine.link_setup import Candidate
from replblk.model.errors import PeerError
from replblk.model.notices import Level
from replblk.model.vocabulary import ConnState, DiskState, Policy
from replblk.wire import auth
from replblk.wire.packets import (
    CF_DISCARD_MY_DATA,
    FF_THIN_RESYNC,
    FF_TRIM,
    FF_WSAME,
    FF_WZEROES,
    PRO_VERSION_MAX,
    PRO_VERSION_MIN,
    UUID_FLAG_BEGINS,
    UUID_FLAG_CRASHED_PRIMARY,
    UUID_FLAG_DISCARD_MY_DATA,
    UUID_FLAG_INCONSISTENT,
    UUID_FLAG_LEFTOVER_BITS,
    Cmd,
    Features,
    ProtocolPacket,
    Sizes,
    StateWord,
    SyncParam,
    Uuids,
    decode,
    sync_param_command,
)

if TYPE_CHECKING:
    from replblk.engine.context import Context
    from replblk.engine.volume import Volume
    from replblk.wire.framing import Packet

FEATURES_OFFERED = FF_TRIM | FF_THIN_RESYNC | FF_WSAME | FF_WZEROES
CHALLENGE_BYTES = 64
_MIRROR = {
    Policy.DISCARD_LOCAL: Policy.DISCARD_REMOTE,
    Policy.DISCARD_REMOTE: Policy.DISCARD_LOCAL,
}


class Handshake:
    """Runs from ``begin`` until the parameters are sent; while ``active``, packets are its."""

    def __init__(
        self,
        ctx: Context,
        retry: Callable[[str], None],
        stand_alone: Callable[[str], None],
    ) -> None:
        self._ctx = ctx
        self._retry = retry
        self._stand_alone = stand_alone
        self._expects: Cmd | None = None
        self._challenge = b""
        self.protocol_received = False
        """P_PROTOCOL agreed with ours: the handshake is over, any other packet may come."""

    @property
    def active(self) -> bool:
        """Whether the next packet on the data socket belongs to the handshake."""
        return self._expects is not None

    def begin(self, data: Candidate, meta: Candidate) -> None:
        """Both sockets are there: offer versions and features."""
        peer = self._ctx.peer
        peer.establish(
            (data.link, data.deframer),
            (meta.link, meta.deframer),
            resolves_conflicts=not meta.ours,
        )
        self.protocol_received = False
        self._expects = Cmd.P_CONNECTION_FEATURES
        self._arm()
        peer.send(
            Cmd.P_CONNECTION_FEATURES, Features(PRO_VERSION_MIN, FEATURES_OFFERED, PRO_VERSION_MAX)
        )
        self._ctx.defer(peer.pump)

    def ended(self) -> None:
        """The connection is gone."""
        self._expects = None
        self._ctx.timers.cancel("handshake")

    def _arm(self) -> None:
        wait = 4 * self._ctx.net.ping_timeout * TENTH_NS
        self._ctx.timers.set("handshake", wait, self._late)

    def _late(self) -> None:
        expected = self._expects.name if self._expects is not None else "nothing"
        self._refuse_stranger(f"the peer did not send {expected} in time")

    # -- packets ------------------------------------------------------------------------------

    def on_packet(self, packet: Packet) -> None:
        """A packet while the handshake is active."""
        if packet.cmd is not self._expects:
            self._unexpected(packet.cmd)
        elif packet.cmd is Cmd.P_CONNECTION_FEATURES:
            self._on_features(packet)
        elif packet.cmd is Cmd.P_AUTH_CHALLENGE:
            self._on_challenge(bytes(packet.payload))
        else:
            self._on_response(bytes(packet.payload))

    def _unexpected(self, cmd: Cmd) -> None:
        assert self._expects is not None
        if self._expects is Cmd.P_CONNECTION_FEATURES:
            self._refuse_stranger(f"expected ConnectionFeatures packet, received: {cmd.name}")
        elif self._expects is Cmd.P_AUTH_CHALLENGE:
            self._refuse_stranger(f"expected AuthChallenge packet, received: {cmd.name}")
        else:
            self._refuse_stranger(f"expected AuthResponse packet, received: {cmd.name}")

    def _on_features(self, packet: Packet) -> None:
        message = decode(packet.cmd, packet.payload, features=0, apv=self._ctx.peer.apv)
        assert isinstance(message, Features)
        theirs_max = message.protocol_max or message.protocol_min
        if theirs_max < PRO_VERSION_MIN or message.protocol_min > PRO_VERSION_MAX:
            self._refuse_stranger(
                "incompatible DRBD dialects: I support "
                f"{PRO_VERSION_MIN}-{PRO_VERSION_MAX}, peer supports "
                f"{message.protocol_min}-{theirs_max}"
            )
            return
        apv = min(PRO_VERSION_MAX, theirs_max)
        if apv < 100 and len(self._ctx.volumes) > 1:
            self._refuse_stranger(
                f"the peer's protocol {apv} has no volumes, this resource has several"
            )
            return
        self._ctx.peer.agree(apv, FEATURES_OFFERED & message.feature_flags)
        self._ctx.tell(Level.INFO, f"Handshake successful: Agreed network protocol version {apv}")
        self._ctx.tell(
            Level.INFO, f"Feature flags enabled on protocol level: {self._ctx.peer.features:#x}"
        )
        if self._ctx.net.cram_hmac_alg:
            self._challenge = self._ctx.ports.clock.random_bits(8 * CHALLENGE_BYTES).to_bytes(
                CHALLENGE_BYTES, "big"
            )
            self._expects = Cmd.P_AUTH_CHALLENGE
            self._arm()
            self._ctx.peer.send(Cmd.P_AUTH_CHALLENGE, self._challenge)
        else:
            self._send_parameters()

    def _on_challenge(self, challenge: bytes) -> None:
        if challenge[:CHALLENGE_BYTES] == self._challenge:
            self._refuse_stranger("Peer presented the same challenge!")
            return
        net = self._ctx.net
        answer = auth.response(net.shared_secret.encode(), challenge, net.cram_hmac_alg)
        self._expects = Cmd.P_AUTH_RESPONSE
        self._arm()
        self._ctx.peer.send(Cmd.P_AUTH_RESPONSE, answer)

    def _on_response(self, response: bytes) -> None:
        net = self._ctx.net
        right = auth.response(net.shared_secret.encode(), self._challenge, net.cram_hmac_alg)
        if not auth.matches(right, response):
            self._refuse_stranger(
                "Authentication of peer failed: check that shared-secret and cram-hmac-alg are the "
                "same on both nodes"
            )
            return
        self._ctx.tell(
            Level.INFO, f"Peer authenticated using {len(right)} bytes HMAC ({net.cram_hmac_alg})"
        )
        self._send_parameters()

    def _refuse_stranger(self, why: str) -> None:
        """Whoever it is, it has not shown that it is the peer: it costs this connection only."""
        self.ended()
        self._retry(why)

    # -- parameters ---------------------------------------------------------------------------

    def _send_parameters(self) -> None:
        self._expects = None
        self._ctx.timers.cancel("handshake")
        net, peer = self._ctx.net, self._ctx.peer
        discard, self._ctx.discard_my_data = self._ctx.discard_my_data, False
        peer.send(
            Cmd.P_PROTOCOL,
            ProtocolPacket(
                net.protocol,
                net.after_sb_0pri,
                net.after_sb_1pri,
                net.after_sb_2pri,
                CF_DISCARD_MY_DATA if discard else 0,
                net.allow_two_primaries,
                net.data_integrity_alg,
            ),
        )
        for number in sorted(self._ctx.volumes):
            volume = self._ctx.volumes[number]
            volume.packet_seq = volume.peer_seq = 0
            volume.peer_uuids = None
            volume.peer_max_sectors = 0
            volume.discard_my_data = discard
            volume.handshaking, volume.peer_is_connected = True, False
            volume.resyncs_leftover_bits = False
            send_sync_param(self._ctx, volume)
            send_sizes(self._ctx, volume)
            send_uuids(self._ctx, volume)
            send_state(self._ctx, volume)
        self._ctx.states.set_connection(ConnState.WF_REPORT_PARAMS, "parameters sent")
        peer.open_meta()

    def on_protocol(self, packet: ProtocolPacket) -> None:
        """P_PROTOCOL: both sides' settings have to be the same (after-sb mirrored)."""
        if self.protocol_received:
            raise PeerError("P_PROTOCOL a second time")
        net = self._ctx.net
        peers_discard = bool(packet.conn_flags & CF_DISCARD_MY_DATA)
        own_discard = any(v.discard_my_data for v in self._ctx.volumes.values())
        checks = (
            ("protocol", str(net.protocol), str(packet.protocol)),
            ("after-sb-0pri", str(net.after_sb_0pri), str(_mirrored(packet.after_sb_0p))),
            ("after-sb-1pri", str(net.after_sb_1pri), str(_mirrored(packet.after_sb_1p))),
            ("after-sb-2pri", str(net.after_sb_2pri), str(_mirrored(packet.after_sb_2p))),
            ("allow-two-primaries", str(net.allow_two_primaries), str(bool(packet.two_primaries))),
            ("data-integrity-alg", net.data_integrity_alg, packet.integrity_alg),
        )
        for name, own, theirs in checks:
            if own != theirs:
                self._ctx.tell(Level.ERROR, f"incompatible {name} settings")
                self._stand_alone(
                    f"incompatible {name} settings: {own or '(none)'} here, "
                    f"{theirs or '(none)'} at the peer"
                )
                return
        if own_discard and peers_discard:
            self._ctx.tell(Level.ERROR, "incompatible discard-my-data settings")
            self._stand_alone("incompatible discard-my-data settings: both nodes want it")
            return
        self._ctx.peer.peer_integrity_alg = packet.integrity_alg
        self.protocol_received = True

    def on_protocol_update(self, packet: ProtocolPacket) -> None:
        """P_PROTOCOL_UPDATE: the peer's administrator changed settings; they are ours from now on.

        The peer's data carries its new digest at once; ours stays as configured here.
        """
        alg = packet.integrity_alg
        if alg and not auth.known(alg):
            raise PeerError(f"P_PROTOCOL_UPDATE: data-integrity-alg {alg} is not known here")
        self._ctx.peer.peer_integrity_alg = alg
        self._ctx.net = replace(
            self._ctx.net,
            protocol=packet.protocol,
            after_sb_0pri=_mirrored(packet.after_sb_0p),
            after_sb_1pri=_mirrored(packet.after_sb_1p),
            after_sb_2pri=_mirrored(packet.after_sb_2p),
            allow_two_primaries=bool(packet.two_primaries),
        )
        self._ctx.tell(Level.INFO, f"the peer changed net options: protocol {packet.protocol}")

    def on_sync_param(self, volume: Volume, packet: SyncParam) -> None:
        """P_SYNC_PARAM89: algorithms have to be the same; the peer's speeds are its own affair."""
        net = self._ctx.net
        for name, own, theirs in (
            ("verify-alg", net.verify_alg, packet.verify_alg),
            ("csums-alg", net.csums_alg, packet.csums_alg),
        ):
            if own != theirs:
                sentence = f'Different {name} settings. me="{own}" peer="{theirs}"'
                self._ctx.tell(Level.ERROR, sentence, volume.number)
                self._stand_alone(sentence)
                return


def _mirrored(policy: Policy) -> Policy:
    return _MIRROR.get(policy, policy)


# -- what a node tells of a volume --------------------------------------------------------------


def send_sync_param(ctx: Context, volume: Volume) -> None:
    """Our resync settings; a diskless node sends DRBD's defaults."""
    net, disk = ctx.net, volume.config.options
    if volume.state.disk < DiskState.INCONSISTENT:
        packet = SyncParam(verify_alg=net.verify_alg, csums_alg=net.csums_alg)
    else:
        packet = SyncParam(
            disk.resync_rate,
            net.verify_alg,
            net.csums_alg,
            disk.c_plan_ahead,
            disk.c_delay_target,
            disk.c_fill_target,
            disk.c_max_rate,
        )
    ctx.peer.send(sync_param_command(ctx.peer.apv), packet, volume.number)


def send_sizes(ctx: Context, volume: Volume, *, dds_flags: int = 0, asks: bool = False) -> None:
    """Our sizes: what the disk holds, what the configuration allows, what the device has now.

    asks: the peer is to look at its disk again and to tell its sizes (a resize).
    """
    attached = volume.state.disk >= DiskState.NEGOTIATING
    backing = volume.backing
    ctx.peer.send(
        Cmd.P_SIZES,
        Sizes(
            d_size=volume.own_max_sectors if attached else 0,
            u_size=volume.user_size_sectors if attached else 0,
            c_size=0 if asks else volume.capacity_sectors,
            max_bio_size=ctx.peer.request_bytes_max,
            dds_flags=dds_flags,
            physical_block_size=backing.block_bytes if backing is not None else 512,
            io_min=backing.block_bytes if backing is not None else 512,
            discard_enabled=1 if attached else 0,
        ),
        volume.number,
    )


def send_uuids(ctx: Context, volume: Volume, flags: int = 0) -> None:
    """Our generation; not sent at all without a disk. flags: what is said this once."""
    if volume.state.disk < DiskState.NEGOTIATING:
        return
    negotiating = volume.state.disk is DiskState.NEGOTIATING
    if volume.discard_my_data:
        flags |= UUID_FLAG_DISCARD_MY_DATA
    if volume.crashed_primary:
        flags |= UUID_FLAG_CRASHED_PRIMARY
    if negotiating and volume.kept_disk is DiskState.INCONSISTENT:
        flags |= UUID_FLAG_INCONSISTENT
    if volume.resyncs_leftover_bits or volume.has_leftover_bits:
        flags |= UUID_FLAG_LEFTOVER_BITS
    if volume.exposed_before:
        flags |= UUID_FLAG_BEGINS
    flags |= volume.handover_flags
    volume.changes_sent = volume.dirty_bits
    uuids = volume.compared_uuids or volume.uuids
    ctx.peer.send(
        Cmd.P_UUIDS,
        Uuids(
            uuids.current,
            uuids.bitmap,
            uuids.history0,
            uuids.history1,
            volume.changes_sent,
            flags,
        ),
        volume.number,
    )


def send_state(ctx: Context, volume: Volume) -> None:
    """Our state word as it is now.

    A disk that is only being read yet is told as none: a peer answers the first word of a disk with
    its generation, and we want to hear that when ours is told.
    """
    state = volume.state
    if state.disk is DiskState.ATTACHING:
        state = state.but(disk=DiskState.DISKLESS)
    ctx.peer.send(Cmd.P_STATE, StateWord(state.packed()), volume.number)
