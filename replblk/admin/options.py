"""The one table of drbd.conf options: section, type, unit, range, default and the model's field.

Numbers are written in an option's default unit, or with a suffix: k/K, m/M, g/G (powers of 1024)
and s (512) give bytes, converted to the default unit and rounded up. Parser, documentation and
conversion all read this table. ``python -m replblk.admin.options_page`` prints it as a document.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, IntEnum

from replblk.model.vocabulary import Fencing, OnIoError, OnNoData, Policy, Protocol


class Kind(Enum):
    """How a value is written."""

    NUMBER = "number"
    ENUM = "one of"
    BOOLEAN = "yes or no"
    STRING = "string"
    FLAG = "no value"
    NAMES = "names"


@dataclass(frozen=True, slots=True)
class Option:
    """One option. default: as it would be written; low and high in the default unit.

    clamped: a number out of range is brought into it, with a warning, instead of being refused
    (DRBD's own tools leave these to the driver). field: name in the model's dataclass, "" if none.
    """

    section: str
    name: str
    kind: Kind
    default: str
    about: str
    field: str = ""
    low: int = 0
    high: int = 0
    unit: str = ""
    clamped: bool = False
    choices: tuple[str, ...] = ()
    enum: type[IntEnum] | None = None
    longest: int = 255

    @property
    def scale(self) -> int:
        """Bytes in one default unit; 1 for counts and times."""
        return {"sectors": 512, "KiB/s": 1024}.get(self.unit, 1)

    @property
    def letter(self) -> str:
        """DRBD's letter for the default unit, used in messages."""
        return {"sectors": "s", "KiB/s": "k"}.get(self.unit, "")


_NUMBER = re.compile(r"([0-9]{1,19})([kKmMgGs]?)")
_FACTORS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "s": 512}


def number(option: Option, text: str) -> int | None:
    """*text* in the option's default unit, not yet held against its range; None: not a number."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    value = int(match[1])
    if not match[2]:
        return value
    return -(-value * _FACTORS[match[2].lower()] // option.scale)


def member(option: Option, text: str) -> IntEnum:
    """The model's enum member for a checked value of an enum option."""
    assert option.enum is not None
    if option.enum is Protocol:
        text = text.upper()
    elif option.name == "rr-conflict":
        text = _RR_CONFLICT.get(text, text)
    return next(item for item in option.enum if str(item) == text)


_RR_CONFLICT = {"call-pri-lost": "call-pri-lost-after-sb", "violently": "violently-as0p"}
"""rr-conflict's words for policies that the after-sb options spell longer, with equal numbers."""


def lookup(section: str, name: str) -> Option | None:
    """The option of that name in that section, by its present name."""
    return _BY_NAME.get((section, name))


def section_options(section: str) -> list[Option]:
    """The options of a section in the table's order, which is also DRBD's."""
    return [option for option in OPTIONS if option.section == section]


def _num(section: str, text: str, about: str, *, clamped: bool = False) -> Option:
    """A number from ``name default low..high [unit]``; the model's field is the name with ``_``."""
    name, default, limits, *unit = text.split(maxsplit=3)
    low, high = limits.split("..")
    field = {"size": "size_sectors"}.get(name, name.replace("-", "_"))
    return Option(
        *(section, name, Kind.NUMBER, default, about, field, int(low), int(high)),
        unit=unit[0] if unit else "",
        clamped=clamped,
    )


def _bool(section: str, name: str, default: str, about: str) -> Option:
    return Option(section, name, Kind.BOOLEAN, default, about, name.replace("-", "_"))


def _text(
    section: str, name: str, about: str, *, longest: int = 255, field: str | None = None
) -> Option:
    field = name.replace("-", "_") if field is None else field
    return Option(section, name, Kind.STRING, "", about, field, longest=longest)


def _enum(
    section: str, name: str, about: str, choices: str, enum: type[IntEnum] | None = None
) -> Option:
    """An enum whose first choice is the default."""
    words = tuple(choices.split())
    field = name.replace("-", "_")
    return Option(section, name, Kind.ENUM, words[0], about, field, choices=words, enum=enum)


_ON_IO_ERROR = "detach pass_on call-local-io-error"
_BALANCING = (
    "prefer-local prefer-remote round-robin least-pending when-congested-remote "
    "32K-striping 64K-striping 128K-striping 256K-striping 512K-striping 1M-striping"
)
_ZERO_PRI = (
    "disconnect discard-younger-primary discard-older-primary discard-zero-changes "
    "discard-least-changes discard-local discard-remote"
)
_ONE_PRI = "disconnect consensus discard-secondary call-pri-lost-after-sb violently-as0p"
_HANDLERS = (
    ("pri-on-incon-degr", "this node is Primary, degraded and its data is Inconsistent"),
    ("pri-lost-after-sb", "this Primary lost a split brain decision"),
    ("pri-lost", "this Primary should become sync target"),
    ("initial-split-brain", "split brain was found, before any policy is tried"),
    ("split-brain", "split brain was found and not resolved"),
    ("fence-peer", "the peer must be fenced (old name: outdate-peer)"),
    ("unfence-peer", "the peer is in sync again after fencing"),
    ("local-io-error", "the backing device failed"),
    ("before-resync-target", "a resync with this node as target begins"),
    ("after-resync-target", "a resync with this node as target ended"),
    ("before-resync-source", "a resync with this node as source begins"),
    ("out-of-sync", "an online verify found differences"),
)

# Ranges and defaults of DRBD 8.4 (linux/drbd_limits.h), in the order drbdsetup show prints them.
OPTIONS: tuple[Option, ...] = (
    _num("disk", "size 0 0..2199023255552 sectors", "usable size; 0: the whole device"),
    _num("disk", "max-bio-bvecs 0 0..128", "no effect in userspace", clamped=True),
    _enum("disk", "on-io-error", "after an error of the backing device", _ON_IO_ERROR, OnIoError),
    _enum(
        *("disk", "fencing", "what a Primary does about an unreachable peer"),
        *("dont-care resource-only resource-and-stonith", Fencing),
    ),
    _bool("disk", "disk-barrier", "no", "order writes by barriers of the backing device"),
    _bool("disk", "disk-flushes", "yes", "order writes by flushes of the backing device"),
    _bool("disk", "disk-drain", "yes", "order writes by waiting for them"),
    _bool("disk", "md-flushes", "yes", "flush after metadata writes"),
    _num("disk", "resync-rate 250 1..4194304 KiB/s", "fixed resync rate when c-plan-ahead is 0"),
    Option(
        *("disk", "resync-after", Kind.STRING, "-1"),
        *("resync only after RES or RES/VOLUME has finished; -1: no dependency", "resync_after"),
    ),
    _num("disk", "al-extents 1237 67..65534", "activity log size, 4 MiB each", clamped=True),
    _bool("disk", "al-updates", "yes", "write the activity log; no: a crash costs a full resync"),
    _bool("disk", "discard-zeroes-if-aligned", "yes", "aligned discards read back as zeroes"),
    _bool("disk", "disable-write-same", "no", "never use WRITE SAME"),
    _num("disk", "c-plan-ahead 20 0..300 0.1 s", "how far the resync controller plans; 0: off"),
    _num("disk", "c-delay-target 10 1..100 0.1 s", "delay aimed at on the wire"),
    _num("disk", "c-fill-target 100 0..1048576 sectors", "amount in flight aimed at"),
    _num("disk", "c-max-rate 102400 250..4194304 KiB/s", "upper limit of the controller"),
    _num("disk", "c-min-rate 250 0..4194304 KiB/s", "resync rate kept beside application I/O"),
    _num("disk", "disk-timeout 0 0..6000 0.1 s", "give the disk up after; 0: never", clamped=True),
    _enum("disk", "read-balancing", "which node serves reads", _BALANCING),
    _num(
        "disk",
        "rs-discard-granularity 0 0..1048576 bytes",
        "resync areas of zeroes as discards; 0: off",
        clamped=True,
    ),
    Option(
        *("net", "protocol", Kind.ENUM, "C", "when a write is complete (upper or lower case)"),
        *("protocol",),
        choices=("A", "B", "C"),
        enum=Protocol,
    ),
    _num("net", "timeout 60 1..600 0.1 s", "an answer later than this breaks the connection"),
    _num("net", "max-epoch-size 2048 1..20000", "writes between two barriers"),
    _num("net", "max-buffers 2048 32..131072 pages", "memory for data on its way to the disk"),
    _num("net", "unplug-watermark 128 1..131072", "no effect in userspace", clamped=True),
    _num("net", "connect-int 10 1..120 s", "pause between connection attempts"),
    _num("net", "ping-int 10 1..120 s", "an idle connection is tested this often"),
    _num("net", "ping-timeout 5 1..300 0.1 s", "time for the answer to a ping", clamped=True),
    _num("net", "sndbuf-size 0 0..10485760 bytes", "socket send buffer; 0: automatic"),
    _num("net", "rcvbuf-size 0 0..10485760 bytes", "socket receive buffer; 0: automatic"),
    _num("net", "ko-count 7 0..200", "timeouts until a stuck peer is dropped; 0: never"),
    _bool("net", "allow-two-primaries", "no", "both nodes Primary at once; protocol C only"),
    _text("net", "cram-hmac-alg", "digest to authenticate the peer with", longest=63),
    _text("net", "shared-secret", "password of both nodes", longest=63),
    _enum(
        *("net", "after-sb-0pri", "split brain, no Primary (also discard-node-NAME)"),
        *(_ZERO_PRI, Policy),
    ),
    _enum("net", "after-sb-1pri", "split brain, one Primary", _ONE_PRI, Policy),
    _enum(
        *("net", "after-sb-2pri", "split brain, two Primaries"),
        *("disconnect call-pri-lost-after-sb violently-as0p", Policy),
    ),
    _bool("net", "always-asbp", "no", "after-sb policies even with more than two generations"),
    _enum(
        *("net", "rr-conflict", "resync direction contradicts the roles"),
        *("disconnect call-pri-lost violently", Policy),
    ),
    _text("net", "data-integrity-alg", "digest sent with every data block", longest=63),
    _bool("net", "tcp-cork", "yes", "gather small packets"),
    _enum("net", "on-congestion", "send buffer full", "block pull-ahead disconnect"),
    _num("net", "congestion-fill 0 0..20971520 sectors", "amount in flight that is congestion"),
    _num("net", "congestion-extents 1237 67..65534", "hot extents that are congestion"),
    _text("net", "csums-alg", "digest to skip equal blocks in a resync", longest=63),
    _bool("net", "csums-after-crash-only", "no", "csums-alg only after a crashed Primary"),
    _text("net", "verify-alg", "digest of online verify", longest=63),
    _bool("net", "use-rle", "yes", "compress bitmaps on the wire"),
    _num("net", "socket-check-timeout 0 0..300 0.1 s", "0: ping-timeout", clamped=True),
    _text("options", "cpu-mask", "CPUs to run on, hexadecimal"),
    _enum(
        *("options", "on-no-data-accessible", "I/O when no UpToDate data can be reached"),
        *("io-error suspend-io", OnNoData),
    ),
    _num("startup", "wfc-timeout 0 0..300000 s", "wait for the peer; 0: for ever"),
    _num("startup", "degr-wfc-timeout 0 0..300000 s", "the same, if degraded before"),
    _num("startup", "outdated-wfc-timeout 0 0..300000 s", "the same, if the peer is outdated"),
    _bool("startup", "wait-after-sb", "no", "keep waiting after split brain"),
    Option(
        *("startup", "stacked-timeouts", Kind.FLAG, "no"),
        *("the timeouts also hold for stacked resources", "stacked_timeouts"),
    ),
    Option(
        *("startup", "become-primary-on", Kind.NAMES, ""),
        *("host names, or both (needs allow-two-primaries)", "become_primary_on"),
    ),
    *(_text("handlers", name, f"command run when {when}", field="") for name, when in _HANDLERS),
    *(
        _text("proxy", name, "of drbd-proxy; parsed and printed only", field="")
        for name in ("memlimit", "read-loops", "compression", "bwlimit")
    ),
    *(
        _text("proxy", name, "of drbd-proxy; parsed and printed only", field="")
        for name in ("sndbuf-size", "rcvbuf-size", "ping-timeout")
    ),
    _num("global", "minor-count 0 1..255", "number of minors; 0: automatic; no effect here"),
    _num("global", "dialog-refresh 1 0..600 s", "redraw of the boot time dialog"),
    _enum("global", "usage-count", "replblk never counts usage", "ask yes no"),
    _num("global", "cmd-timeout-short 5 0..900 s", "patience for quick commands"),
    _num("global", "cmd-timeout-medium 121 0..900 s", "patience for attach, primary, down"),
    _num("global", "cmd-timeout-long 600 0..900 s", "patience for metadata work and handlers"),
    Option(
        *("global", "disable-ip-verification", Kind.FLAG, "no"),
        *("do not check that this machine has the own address", "disable_ip_verification"),
    ),
    Option(
        *("global", "udev-always-use-vnr", Kind.FLAG, "no"),
        *("no effect in userspace", "udev_always_use_vnr"),
    ),
)

_BY_NAME = {(option.section, option.name): option for option in OPTIONS}

ALIASES = {
    ("disk", "rate"): "resync-rate",
    ("disk", "after"): "resync-after",
    ("handlers", "outdate-peer"): "fence-peer",
}
"""Old names that are still read, by section."""

NEGATED = {
    ("disk", "no-disk-barrier"): "disk-barrier",
    ("disk", "no-disk-flushes"): "disk-flushes",
    ("disk", "no-disk-drain"): "disk-drain",
    ("disk", "no-md-flushes"): "md-flushes",
    ("net", "no-tcp-cork"): "tcp-cork",
}
"""8.3's way to switch a boolean off; these five and no others."""

SYNCER = {
    **{name: ("disk", name) for name in ("al-extents", "c-plan-ahead", "c-delay-target")},
    **{name: ("disk", name) for name in ("c-fill-target", "c-max-rate", "c-min-rate")},
    **{name: ("net", name) for name in ("verify-alg", "csums-alg", "use-rle")},
    **{name: ("options", name) for name in ("cpu-mask", "on-no-data-accessible")},
    "rate": ("disk", "resync-rate"),
    "after": ("disk", "resync-after"),
}
"""Where the options of 8.3's syncer section live now."""

OBSOLETE = frozenset(
    ("delay-probe-volume", "delay-probe-interval", "throttle-threshold", "hold-off-threshold")
)
"""Read and ignored in every option section except syncer."""

_DRBD9_NET = (
    "transport tls tls-keyring tls-privkey tls-certificate allow-remote-read load-balance-paths "
    "rdma-ctrl-rcvbuf-size rdma-ctrl-sndbuf-size _name"
)
_DRBD9_OPTIONS = (
    "auto-promote auto-promote-timeout quorum on-no-quorum quorum-minimum-redundancy "
    "peer-ack-window peer-ack-delay twopc-timeout twopc-retry-timeout max-io-depth "
    "on-suspended-primary-outdated drbd8-compat-mode"
)
DRBD9_ONLY = {
    "disk": frozenset(("block-size", "discard-granularity", "bitmap", "d-bitmap-block-size")),
    "net": frozenset(_DRBD9_NET.split()),
    "options": frozenset(_DRBD9_OPTIONS.split()),
    "handlers": frozenset(("quorum-lost", "disconnected", "before-peer-lost")),
    "global": frozenset(("udev-always-symlink-vnr",)),
}
"""DRBD 9's own options: a warning and on we go, so that a file shared with DRBD 9 loads."""
