"""Roles, states, policies: DRBD's numbers and DRBD's spellings.

Members carry the number used on the wire and on disk; ``str()`` gives the spelling an
administrator knows. Source: linux/drbd.h of DRBD 8.4 as described in its protocol (state word).
"""

from __future__ import annotations

from enum import IntEnum


class _Named(IntEnum):
    """An enum whose members print as DRBD spells them."""

    @property
    def label(self) -> str:
        """DRBD's spelling of this member."""
        return _LABELS.get((type(self).__name__, self.value), self.name)

    def __str__(self) -> str:
        return self.label


class Role(_Named):
    """Role of a node for a volume (2 bits on the wire)."""

    UNKNOWN = 0
    PRIMARY = 1
    SECONDARY = 2


class ConnState(_Named):
    """Connection and replication state (5 bits); 0..9 are states of the connection itself."""

    STANDALONE = 0
    DISCONNECTING = 1
    UNCONNECTED = 2
    TIMEOUT = 3
    BROKEN_PIPE = 4
    NETWORK_FAILURE = 5
    PROTOCOL_ERROR = 6
    TEAR_DOWN = 7
    WF_CONNECTION = 8
    WF_REPORT_PARAMS = 9
    CONNECTED = 10
    STARTING_SYNC_S = 11
    STARTING_SYNC_T = 12
    WF_BITMAP_S = 13
    WF_BITMAP_T = 14
    WF_SYNC_UUID = 15
    SYNC_SOURCE = 16
    SYNC_TARGET = 17
    VERIFY_S = 18
    VERIFY_T = 19
    PAUSED_SYNC_S = 20
    PAUSED_SYNC_T = 21
    AHEAD = 22
    BEHIND = 23


SOURCE_STATES = frozenset({ConnState.SYNC_SOURCE, ConnState.PAUSED_SYNC_S})
"""The peer's data are being made as ours."""


class DiskState(_Named):
    """Disk state (4 bits); the numeric order is meant and used by the rules."""

    DISKLESS = 0
    ATTACHING = 1
    FAILED = 2
    NEGOTIATING = 3
    INCONSISTENT = 4
    OUTDATED = 5
    DUNKNOWN = 6
    CONSISTENT = 7
    UP_TO_DATE = 8


class Code(IntEnum):
    """Result of a state change (DRBD's SS_*); also the retcode of P_STATE_CHG_REPLY."""

    CW_NO_NEED = 4
    CW_SUCCESS = 3
    NOTHING_TO_DO = 2
    SUCCESS = 1
    UNKNOWN_ERROR = 0
    TWO_PRIMARIES = -1
    NO_UP_TO_DATE_DISK = -2
    NO_LOCAL_DISK = -4
    NO_REMOTE_DISK = -5
    CONNECTED_OUTDATES = -6
    PRIMARY_NOP = -7
    RESYNC_RUNNING = -8
    ALREADY_STANDALONE = -9
    CW_FAILED_BY_PEER = -10
    IS_DISKLESS = -11
    DEVICE_IN_USE = -12
    NO_NET_CONFIG = -13
    NO_VERIFY_ALG = -14
    NEED_CONNECTION = -15
    LOWER_THAN_OUTDATED = -16
    NOT_SUPPORTED = -17
    IN_TRANSIENT_STATE = -18
    CONCURRENT_ST_CHG = -19
    O_VOL_PEER_PRI = -20
    OUTDATE_WO_CONN = -21


CODE_TEXT: dict[Code, str] = {
    Code.UNKNOWN_ERROR: "unknown error.",
    Code.TWO_PRIMARIES: "Multiple primaries not allowed by config",
    Code.NO_UP_TO_DATE_DISK: "Need access to UpToDate data",
    Code.NO_LOCAL_DISK: "Can not resync without local disk",
    Code.NO_REMOTE_DISK: "Can not resync without remote disk",
    Code.CONNECTED_OUTDATES: "Refusing to be Outdated while Connected",
    Code.PRIMARY_NOP: "Refusing to be Primary while peer is not outdated",
    Code.RESYNC_RUNNING: "Can not start OV/resync since it is already active",
    Code.ALREADY_STANDALONE: "Can not disconnect a StandAlone device",
    Code.CW_FAILED_BY_PEER: "State change was refused by peer node",
    Code.IS_DISKLESS: "Device is diskless, the requested operation requires a disk",
    Code.DEVICE_IN_USE: "Device is held open by someone",
    Code.NO_NET_CONFIG: "Have no net/connection configuration",
    Code.NO_VERIFY_ALG: "Need a verify algorithm to start online verify",
    Code.NEED_CONNECTION: "Need a connection to start verify or resync",
    Code.LOWER_THAN_OUTDATED: "Disk state is lower than outdated",
    Code.NOT_SUPPORTED: "Peer does not support protocol",
    Code.IN_TRANSIENT_STATE: "In transient state, retry after next state change",
    Code.CONCURRENT_ST_CHG: "Concurrent state changes detected and aborted",
    Code.O_VOL_PEER_PRI: "Other vol primary on peer not allowed by config",
    Code.OUTDATE_WO_CONN: "Need a connection for a graceful disconnect/outdate peer",
}


def exit_code(code: Code) -> int:
    """Exit status that drbdsetup gives a state change result (0 for success)."""
    if code >= Code.SUCCESS:
        return 0
    return {Code.NO_UP_TO_DATE_DISK: 17, Code.NO_LOCAL_DISK: 16, Code.LOWER_THAN_OUTDATED: 5}.get(
        code, 11
    )


class Policy(_Named):
    """After-split-brain and rr-conflict policies, by their number in P_PROTOCOL."""

    DISCONNECT = 0
    DISCARD_YOUNGER_PRI = 1
    DISCARD_OLDER_PRI = 2
    DISCARD_ZERO_CHG = 3
    DISCARD_LEAST_CHG = 4
    DISCARD_LOCAL = 5
    DISCARD_REMOTE = 6
    CONSENSUS = 7
    DISCARD_SECONDARY = 8
    CALL_HELPER = 9
    VIOLENTLY = 10


class Protocol(_Named):
    """Replication protocol: when a write is complete."""

    A = 1
    B = 2
    C = 3


class Fencing(_Named):
    """Fencing policy (disk option, local to a node)."""

    DONT_CARE = 0
    RESOURCE_ONLY = 1
    RESOURCE_AND_STONITH = 2


class OnIoError(_Named):
    """What a disk error leads to."""

    PASS_ON = 0
    CALL_LOCAL_IO_ERROR = 1
    DETACH = 2


class OnNoData(_Named):
    """What happens to I/O of a Primary that reaches no UpToDate data."""

    IO_ERROR = 0
    SUSPEND_IO = 1


_LABELS: dict[tuple[str, int], str] = {}


def _spell(enum: type[_Named], *labels: str) -> None:
    for member, label in zip(enum, labels, strict=True):
        _LABELS[enum.__name__, member.value] = label


_spell(Role, "Unknown", "Primary", "Secondary")
_spell(
    ConnState,
    *(
        "StandAlone Disconnecting Unconnected Timeout BrokenPipe NetworkFailure ProtocolError"
    ).split(),
    *("TearDown WFConnection WFReportParams Connected StartingSyncS StartingSyncT").split(),
    *("WFBitMapS WFBitMapT WFSyncUUID SyncSource SyncTarget VerifyS VerifyT").split(),
    *("PausedSyncS PausedSyncT Ahead Behind").split(),
)
_spell(
    DiskState,
    *("Diskless Attaching Failed Negotiating Inconsistent Outdated DUnknown Consistent").split(),
    "UpToDate",
)
_spell(
    Policy,
    *("disconnect discard-younger-primary discard-older-primary discard-zero-changes").split(),
    *("discard-least-changes discard-local discard-remote consensus discard-secondary").split(),
    *("call-pri-lost-after-sb violently-as0p").split(),
)
_spell(Protocol, "A", "B", "C")
_spell(Fencing, "dont-care", "resource-only", "resource-and-stonith")
_spell(OnIoError, "pass_on", "call-local-io-error", "detach")
_spell(OnNoData, "io-error", "suspend-io")
