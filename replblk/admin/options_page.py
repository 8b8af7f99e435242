"""Writes docs/configuration.md from the tables: options, settings, and what is not done yet."""

from __future__ import annotations

from replblk.admin.options import DRBD9_ONLY, OPTIONS, Kind, Option, section_options
from replblk.admin.settings import SETTINGS
from replblk.admin.unsupported import LIMITATIONS

_INTRO = """\
# Configuration

*Written by `python -m replblk.admin.options_page`; do not edit.*

replblk reads DRBD 8.4's own configuration: `/etc/drbd.conf` with what it includes, or the file
given with `--config`. 8.3 spellings (`syncer { }`, `no-disk-flushes`, `rate`, ...) are read as
well. A minimal resource:

```
resource r0 {
  protocol C;
  on alpha { device /dev/drbd0; disk /dev/sdb1; address 172.16.1.1:7788; meta-disk internal; }
  on beta  { device /dev/drbd0; disk /dev/sdb1; address 172.16.1.2:7788; meta-disk internal; }
}
```

`replblk dump` prints what was understood. Whatever is wrong is told with file, line, column and
what was expected, and nothing is started.

**Numbers** are in the unit of the table, or carry a suffix: `K`, `M`, `G` (bytes, in powers of
1024) or `s` (sectors of 512 bytes); the result is converted to the option's unit and rounded up.
Ranges marked \u2020 are not enforced: the nearest allowed value is used and a warning is given.

**Which setting counts**: for disk options the host's volume, then the resource's volume, then the
resource, then `common`; inside one section the first. For all others the resource, then `common`;
inside one section the last.
"""

_SECTIONS = {
    "disk": "In a volume, a host's volume, a resource or `common`.",
    "net": "In a resource or `common`.",
    "options": "In a resource or `common`.",
    "startup": "In a resource or `common`.",
    "handlers": "Commands, in a resource or `common`.",
    "proxy": "In a resource or `common`.",
    "global": "Once, at the top.",
}


def page() -> str:
    """The whole document."""
    assert set(_SECTIONS) == {option.section for option in OPTIONS}
    parts = [_INTRO, _limits()]
    parts += [_section(name, text) for name, text in _SECTIONS.items()]
    parts += [_drbd9(), _settings()]
    return "\n".join(parts)


def _section(name: str, where: str) -> str:
    rows = [
        f"| `{option.name}` | {_type(option)} | {_default(option)} | {option.about} |"
        for option in section_options(name)
    ]
    return (
        f"## {name} {{ }}\n\n{where}\n\n| option | value | default | meaning |\n|---|---|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )


def _type(option: Option) -> str:
    if option.kind is Kind.NUMBER:
        unit = f" {option.unit}" if option.unit else ""
        mark = " \u2020" if option.clamped else ""
        return f"{option.low}..{option.high}{unit}{mark}"
    if option.kind is Kind.ENUM:
        return ", ".join(f"`{choice}`" for choice in option.choices)
    if option.kind is Kind.STRING and option.longest < 255:
        return f"string, at most {option.longest} characters"
    return str(option.kind.value)


def _default(option: Option) -> str:
    return f"`{option.default}`" if option.default else ""


def _limits() -> str:
    words = {"error": "refused", "warn": "told, no effect"}
    rows = [
        f"| {limit.what} | {words[limit.severity]} | {limit.instead} |" for limit in LIMITATIONS
    ]
    return (
        "## Read, but not supported yet\n\n"
        "*Refused*: `up` ends with this sentence. *Told*: `up` warns and goes on.\n\n"
        "| what | | instead |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    )


def _drbd9() -> str:
    rows = [
        f"| {section} | {', '.join(f'`{name}`' for name in sorted(names))} |"
        for section, names in DRBD9_ONLY.items()
    ]
    return (
        "## Options of DRBD 9\n\n"
        "These, and `node-id` in a host section, are read, have no effect and cause a warning.\n"
        "Any other unknown option is an error.\n\n| section | options |\n|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )


def _settings() -> str:
    rows = [
        f"| `{setting.name}` | {setting.type_text} | {setting.default_text} | {setting.about} |"
        for setting in SETTINGS
    ]
    return (
        "## replblk.toml\n\n"
        "What is replblk's own and not DRBD's stands in a TOML file: the one given with\n"
        "`--settings`, or `replblk.toml` beside the configuration. It may be absent.\n\n"
        "| key | value | default | meaning |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )


if __name__ == "__main__":
    print(page(), end="")
