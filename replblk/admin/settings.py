"""Reads the TOML file of what is ours and not DRBD's into ``model.config.Settings``.

Unknown keys and wrong values are ConfigErrors that name the file, the key and what was expected.
An absent file is for the caller to judge: the usual one may be absent, a named one may not.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replblk.admin.addresses import parse, parse_tcp
from replblk.admin.res_stream import near
from replblk.model.config import Settings
from replblk.model.errors import ConfigError

Read = Callable[[Any], Any]
"""From TOML's value to the model's; raises ConfigError with what was expected."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of the file. The texts are for documentation."""

    name: str
    type_text: str
    default_text: str
    about: str
    read: Read


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"expected a string, not {_shown(value)}")
    return value


def _one_of(*choices: str) -> Read:
    def read(value: Any) -> str:
        if value not in choices or not isinstance(value, str):
            allowed = " or ".join(f'"{choice}"' for choice in choices)
            raise ConfigError(f"expected {allowed}, not {_shown(value)}")
        return value

    return read


def _whole(low: int, high: int) -> Read:
    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ConfigError(f"expected a number from {low} to {high}, not {_shown(value)}")
        return value

    return read


def _addresses(value: Any) -> tuple[str, ...]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise ConfigError(f"expected a list of addresses, not {_shown(value)}")
    for item in items:
        parse(item)
    return tuple(items)


def _tcp_or_none(value: Any) -> str:
    text = _string(value)
    if text:
        parse_tcp(text)
    return text


def _yes_or_no(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"expected true or false, not {_shown(value)}")
    return value


def _one_of_numbers(*numbers: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if isinstance(value, bool) or value not in numbers:
            shown = ", ".join(map(str, numbers))
            raise ConfigError(f"expected one of {shown}, not {_shown(value)}")
        return int(value)

    return read


def _directory(value: Any) -> str:
    text = _string(value)
    if text and not Path(text).is_absolute():
        raise ConfigError(f"expected an absolute path, not {_shown(value)}")
    return text


SETTINGS: tuple[Setting, ...] = (
    Setting(
        *("nbd_listen", "list of `host:port`, `[ipv6]:port`, `unix:/path`", "`[]`"),
        *("serve NBD here as well, beside `<run-dir>/<res>/nbd.sock`", _addresses),
    ),
    Setting(
        *("nbd_peer", "list of `host:port`, `[ipv6]:port`, `unix:/path`", "`[]`"),
        "where the other node serves NBD (its `nbd_listen`): `attach-fuse` follows the Primary "
        "there",
        _addresses,
    ),
    Setting(
        *("metrics_listen", "`host:port` or `[ipv6]:port`", '`""`: nowhere'),
        *("serve Prometheus metrics here", _tcp_or_none),
    ),
    Setting(
        *("durability", "`disk` or `kernel`", "`disk`"),
        "a write is acknowledged once it is flushed (`disk`), or once the device has it and "
        "flushes come at barriers (`kernel`)",
        _one_of("disk", "kernel"),
    ),
    Setting(
        *("resync", "`fair` or `gentle`", "`fair`"),
        "what a resync leaves to an application that uses the device: more than half of its speed "
        "(`fair`) or nine tenths (`gentle`); never slower than `c-min-rate`, which 0 turns off",
        _one_of("fair", "gentle"),
    ),
    Setting(
        *("run_dir", "absolute path", '`""`: the usual one'),
        *("sockets and logs of the daemons", _directory),
    ),
    Setting(
        *("state_dir", "absolute path", '`""`: `/var/lib/drbd`'),
        "what has to outlive a reboot: how large each backing device was, for one that grows while "
        "nobody has it. Beside a `run_dir` that is not root's usual one: that",
        _directory,
    ),
    Setting(
        *("nbd_connections_max", "1..65535", "`64`"),
        *("NBD connections of one daemon at a time", _whole(1, 65535)),
    ),
    Setting(
        *("nbd_half_open_max", "1..65535", "`64`"),
        "NBD connections that have not finished their handshake; one more ends the oldest",
        _whole(1, 65535),
    ),
    Setting(
        *("nbd_handshake_timeout", "1..3600 s", "`10`"),
        *("how long a client's handshake may take", _whole(1, 3600)),
    ),
    Setting(
        *("nbd_requests_max", "1..65535", "`128`"),
        "requests of one connection in flight; then no more are read until some are answered",
        _whole(1, 65535),
    ),
    Setting(
        *("nbd_bytes_max", "1..65536 MiB", "`64`"),
        "payload of one connection in flight, in and out; then no more requests are read",
        _whole(1, 65536),
    ),
    Setting(
        *("nbd_total_bytes_max", "64..1048576 MiB", "`512`"),
        "the same of all connections together, with replies that clients have not taken; then each "
        "has its share, and who moves nothing is let go",
        _whole(64, 1 << 20),
    ),
    Setting(
        *("nbd_tls", "`off`, `on` or `require`", "`off`"),
        "TLS for NBD: offered (`on`), or nothing is served without it (`require`); the socket in "
        "the run directory stays in clear",
        _one_of("off", "on", "require"),
    ),
    Setting(
        *("nbd_tls_certificates", "absolute path", '`""`'),
        "directory of `server-cert.pem`, `server-key.pem`, `ca-cert.pem` and, if there is one, "
        "`ca-crl.pem`, as nbdkit and QEMU have it; read again on SIGHUP",
        _directory,
    ),
    Setting(
        *("nbd_tls_verify_peer", "`true` or `false`", "`false`"),
        *("serve only clients that show a certificate of the same authority", _yes_or_no),
    ),
    Setting(
        *("nbd_tls_psk_file", "absolute path", '`""`'),
        "keys shared in advance instead of certificates, a line `identity:hexadecimal` each; "
        "needs Python 3.13",
        _directory,
    ),
    Setting(
        *("nbd_device", "`no`, `nbd` or `fuse`", "`no`"),
        "what `primary` makes of a volume on this machine: a block device by the kernel's NBD "
        "client, or by nbdfuse and a loop; `secondary` and `down` end it. Needs root",
        _one_of("no", "nbd", "fuse"),
    ),
    Setting(
        *("nbd_device_connections", "1..64", "`4`"),
        *("connections between the daemon and the kernel's NBD client", _whole(1, 64)),
    ),
    Setting(
        *("nbd_device_block_size", "`0`, `512`, `1024`, `2048` or `4096`", "`0`"),
        "logical block size of the kernel's device; `0`: 4096 where the size is a multiple of it, "
        "else 512. What is not a multiple of a block at the end is left out",
        _one_of_numbers(0, 512, 1024, 2048, 4096),
    ),
    Setting(
        *("nbd_device_timeout", "0..86400 s", "`0`: none"),
        "a connection that leaves a request of the kernel unanswered for so long is replaced, and "
        "the request sent again; a peer or a disk that hangs is no reason to set it",
        _whole(0, 86400),
    ),
    Setting(
        *("nbd_device_dead_timeout", "1..86400 s", "`600`"),
        "how long the kernel keeps requests waiting while there is no daemon, before they fail",
        _whole(1, 86400),
    ),
    Setting(
        *("resume_primary", "`true` or `false`", "`false`"),
        "a daemon that ends while Primary, other than by `down`, makes the next one Primary again "
        "as soon as the connected peer agrees; clients wait for it. Not beside a cluster manager",
        _yes_or_no,
    ),
    Setting(
        *("log_level", "`debug`, `info`, `warning` or `error`", "`info`"),
        *("the quietest sentence that is logged", _one_of("debug", "info", "warning", "error")),
    ),
)
_BY_NAME = {setting.name: setting for setting in SETTINGS}
_TOML_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def load_settings(path: str | Path) -> Settings:
    """Settings from the file at *path*; FileNotFoundError if there is none."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"Can not open the settings: {error.strerror}", str(path)) from error
    return parse_settings(data, str(path))


def parse_settings(data: bytes, file: str) -> Settings:
    """Settings from the content of *file*."""
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except tomllib.TOMLDecodeError as error:
        text = str(error)
        place = _TOML_PLACE.search(text)
        if place and place[1]:
            text = text[: place.start()]
            raise ConfigError(text, file, int(place[1]), int(place[2])) from error
        raise ConfigError(text, file) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not a TOML file: {error}", file) from error
    values: dict[str, Any] = {}
    for key, value in document.items():
        setting = _BY_NAME.get(key)
        if setting is None:
            hint = near(key, _BY_NAME)
            known = f" (known: {', '.join(_BY_NAME)})"
            raise ConfigError(f"unknown key {key!r}{hint or known}", file)
        try:
            values[key] = setting.read(value)
        except ConfigError as error:
            raise ConfigError(f"{key}: {error}", file) from error
    return Settings(**values)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
