"""Prints a configuration as ``drbdadm dump`` does: columns, order and quoting; it loads again.

Values appear as written, old spellings by their present names. Volumes of a resource are printed
inside its host sections. Unlike drbdadm, a name equal to a keyword is quoted, so that it loads.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from replblk.admin.options import Kind, section_options
from replblk.admin.res_files import absolute
from replblk.admin.res_merge import Side, last_of, over, section
from replblk.admin.res_model import (
    SECTIONS,
    RawAddress,
    RawBody,
    RawOption,
    RawProxy,
    RawVolume,
    Tree,
)
from replblk.admin.res_stream import needs_quotes

_STEP = 4
_COLUMN = 24
_STARTUP_LAST = ("stacked-timeouts", "become-primary-on")


def dump_text(
    tree: Tree,
    sides: Sequence[Sequence[Side]],
    path: str,
    node: str,
    names: Collection[str],
    merged: bool,
) -> str:
    """The whole configuration, or only the resources in *names* if there are any."""
    lines: list[str] = []
    if not names:
        lines.append(f"# {path}")
        lines += _global(tree)
        if tree.common:
            lines += _block("common", _sections(tree.common.sections, tree.common.plugins))
    for body, hosts in zip(tree.resources, sides, strict=True):
        if names and body.name not in names:
            continue
        mine = next((side for side in hosts if side.mine), None)
        stacked = any(side.raw.kind == "stacked" and side.mine for side in hosts)
        lines.append(
            f"# resource {body.name} on {node}: {'not ignored' if mine else 'ignored'}, "
            f"{'stacked' if stacked else 'not stacked'}"
        )
        lines.append(f"# defined at {absolute(body.place.file)}:{body.place.line}")
        content = _resource(tree, body, hosts, merged)
        lines += [f"resource {quoted(body.name)} {{", *content, "}", ""]
    return "".join(f"{line}\n" for line in lines)


def quoted(text: str, *, value: bool = False) -> str:
    """*text* as it must be written to be read back as a name (or as an option's value)."""
    if not needs_quotes(text, value=value):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _block(head: str, content: list[str]) -> list[str]:
    return [f"{head} {{", *content, "}", ""] if content else []


def _line(indent: int, name: str, value: str) -> str:
    """``NAME   VALUE;`` with names to column 24 of the line and values at least 3 wide."""
    return f"{' ' * indent}{name.ljust(_COLUMN - indent)} {value.rjust(3)};"


def _wide_line(indent: int, name: str, value: str) -> str:
    """The other column rule, of addresses and external metadata: names padded to 16."""
    return f"{' ' * indent}{name.ljust(16)} {value};"


def _option(indent: int, raw: RawOption) -> str:
    if raw.option.kind is Kind.FLAG:
        return f"{' ' * indent}{raw.name};"
    if raw.option.kind is Kind.NAMES:
        return _line(indent, raw.name, " ".join(quoted(word) for word in raw.words))
    if raw.option.kind is Kind.BOOLEAN or raw.name == "usage-count":
        return _line(indent, raw.name, raw.value)
    return _line(indent, raw.name, quoted(raw.value, value=True))


def _global(tree: Tree) -> list[str]:
    """The global block, if anything in it differs from the defaults."""
    names = [option.name for option in section_options("global")]
    names.insert(0, names.pop(names.index("disable-ip-verification")))
    content = [
        _option(_STEP, raw)
        for name in names
        if (raw := last_of(tree.globals, name)) and raw.value != raw.option.default
        if name != "udev-always-use-vnr"
    ]
    return _block("global", content)


def _sections(
    sections: dict[str, list[RawOption]], plugins: list[tuple[str, ...]], indent: int = _STEP
) -> list[str]:
    lines: list[str] = []
    for name in SECTIONS:
        options = sections[name]
        if name == "startup":
            options = sorted(options, key=lambda raw: _startup_rank(raw.name))
        content = [_option(indent + _STEP, raw) for raw in options]
        if name == "proxy":
            content += _plugins(indent + _STEP, plugins)
        if content:
            lines += [f"{' ' * indent}{name} {{", *content, f"{' ' * indent}}}"]
    return lines


def _startup_rank(name: str) -> int:
    return _STARTUP_LAST.index(name) + 1 if name in _STARTUP_LAST else 0


def _plugins(indent: int, plugins: list[tuple[str, ...]]) -> list[str]:
    if not plugins:
        return []
    blank = " " * indent
    lines = [
        f"{blank}    {' '.join(quoted(word, value=True) for word in words)};" for words in plugins
    ]
    return [f"{blank}plugin {{", *lines, f"{blank}}}"]


def _resource(tree: Tree, body: RawBody, hosts: Sequence[Side], merged: bool) -> list[str]:
    lines: list[str] = []
    for side in hosts:
        wide = section(tree, body, "disk") if merged else []
        lines += _host(side, wide)
    if merged:
        plugins = body.plugins or (tree.common.plugins if tree.common else [])
        sections = {name: section(tree, body, name) for name in SECTIONS}
    else:
        plugins, sections = body.plugins, body.sections
    return lines + _sections(sections, plugins)


def _host(side: Side, wide: list[RawOption]) -> list[str]:
    raw = side.raw
    blank = " " * _STEP
    if raw.kind == "on":
        lines = [f"{blank}on {' '.join(quoted(name) for name in raw.names)} {{"]
    elif raw.kind == "floating":
        assert raw.address is not None
        lines = [f"{blank}floating {_address(raw.address)} {{"]
    elif raw.kind == "stacked":
        lines = [f"{blank}stacked-on-top-of {quoted(raw.lower)} {{"]
        lines.append(f"{blank}{blank}# on {' '.join(side.names)} ")
    else:
        lines = [f"{blank}{raw.kind} {{"]
    indent = 2 * _STEP
    if raw.options:
        lines.append(f"{' ' * indent}options {{")
        lines += [_option(indent + _STEP, option) for option in raw.options]
        lines.append(f"{' ' * indent}}}")
    for volume in side.volumes:
        disk_too = raw.kind != "stacked"
        if volume.implicit:
            lines += _volume(volume, indent, wide, disk_too)
        else:
            lines.append(f"{' ' * indent}volume {volume.number} {{")
            lines += _volume(volume, indent + _STEP, wide, disk_too)
            lines.append(f"{' ' * indent}}}")
    if raw.address and raw.kind != "floating":
        lines.append(_wide_line(indent, "address", _address(raw.address)))
    if raw.alternate:
        lines.append(_wide_line(indent, "alternate-link-address", _address(raw.alternate)))
    if raw.proxy:
        lines += _proxy(raw.proxy, indent)
    return [*lines, f"{blank}}}"]


def _address(raw: RawAddress) -> str:
    return f"{raw.address.family} {raw.address}"


def _volume(volume: RawVolume, indent: int, wide: list[RawOption], disk_too: bool) -> list[str]:
    lines: list[str] = []
    options = over(volume.options, wide)
    if options:
        lines.append(f"{' ' * indent}disk {{")
        lines += [_option(indent + _STEP, option) for option in options]
        lines.append(f"{' ' * indent}}}")
    if device := volume.device:
        name = f"{quoted(device.name)} " if device.name else ""
        lines.append(_line(indent, "device", f"{name}minor {device.minor}"))
    if disk_too and volume.disk:
        lines.append(_line(indent, "disk", quoted(volume.disk.path)))
    if disk_too and (meta_disk := volume.meta_disk):
        if meta_disk.path == "internal":
            lines.append(_line(indent, "meta-disk", "internal"))
        else:
            index = "" if meta_disk.index is None else f" [{meta_disk.index}]"
            lines.append(_wide_line(indent, "meta-disk", quoted(meta_disk.path) + index))
    return lines


def _proxy(proxy: RawProxy, indent: int) -> list[str]:
    blank = " " * indent
    lines = [f"{blank}proxy on {' '.join(quoted(name) for name in proxy.names)} {{"]
    if proxy.inside:
        lines.append(_wide_line(indent + _STEP, "inside", _address(proxy.inside)))
    if proxy.outside:
        lines.append(_wide_line(indent + _STEP, "outside", _address(proxy.outside)))
    content = [_option(indent + 2 * _STEP, option) for option in proxy.options]
    content += _plugins(indent + 2 * _STEP, proxy.plugins)
    if content:
        lines += [f"{blank}    options {{", *content, f"{blank}    }}"]
    return [*lines, f"{blank}}}"]
