"""The table of options: numbers, defaults that agree with the model, and the document from it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from replblk.admin.options import ALIASES, NEGATED, OPTIONS, SYNCER, Kind, lookup, member, number
from replblk.admin.options_page import page
from replblk.admin.res_lexer import Place
from replblk.admin.res_merge import values
from replblk.admin.res_model import RawOption
from replblk.admin.resolve import Globals
from replblk.model.config import DiskOptions, NetOptions, Resource, StartupOptions

HERE = Place("t.conf", 1, 1)
MODELS = {
    "disk": DiskOptions,
    "net": NetOptions,
    "startup": StartupOptions,
    "global": Globals,
    "options": Resource,
}
OF_RESOURCE = {"cpu_mask", "on_no_data_accessible"}


@pytest.mark.parametrize(
    ("section", "name", "text", "value"),
    [
        ("disk", "resync-rate", "250", 250),
        ("disk", "resync-rate", "1k", 1),
        ("disk", "resync-rate", "1025s", 513),
        ("disk", "resync-rate", "200M", 204800),
        ("disk", "resync-rate", "1G", 1048576),
        ("disk", "size", "1s", 1),
        ("disk", "size", "1K", 2),
        ("disk", "size", "1g", 2097152),
        ("disk", "c-fill-target", "3k", 6),
        ("disk", "al-extents", "1K", 1024),
        ("disk", "rs-discard-granularity", "8s", 4096),
        ("net", "sndbuf-size", "512k", 524288),
        ("net", "congestion-fill", "1M", 2048),
        ("net", "timeout", "60", 60),
        ("net", "timeout", "123456789012", 123456789012),
        ("net", "timeout", "10X", None),
        ("net", "timeout", "", None),
        ("net", "timeout", "-1", None),
        ("net", "timeout", "1.5", None),
        ("net", "timeout", "9" * 20, None),
    ],
)
def test_numbers_are_read_in_the_unit_of_the_option(
    section: str, name: str, text: str, value: int | None
) -> None:
    option = lookup(section, name)
    assert option is not None
    assert number(option, text) == value


def test_every_default_of_the_table_is_the_default_of_the_model() -> None:
    for option in OPTIONS:
        if not option.field or option.section not in MODELS:
            continue
        if option.kind is Kind.NAMES:
            continue  # its default is "none", which no value stands for
        model = {field.name: field.default for field in fields(MODELS[option.section])}
        if option.kind is Kind.NUMBER and option.low > int(option.default):
            assert model[option.field] == int(option.default)  # 0 means "automatic" there
            continue
        raw = RawOption(option, (option.default,), HERE)
        assert values([raw]) == {option.field: model[option.field]}, option.name


def test_every_field_of_the_model_has_its_option() -> None:
    for section, model in MODELS.items():
        known = {option.field for option in OPTIONS if option.section == section}
        wanted = {field.name for field in fields(model)}
        assert known == (OF_RESOURCE if section == "options" else wanted), section


def test_every_choice_of_an_enum_has_its_member() -> None:
    for option in OPTIONS:
        if option.enum:
            members = {member(option, choice) for choice in option.choices}
            assert len(members) == len(option.choices), option.name


def test_old_names_lead_to_options_that_exist() -> None:
    for (section, _), name in (*ALIASES.items(), *NEGATED.items()):
        assert lookup(section, name) is not None
    for section, name in SYNCER.values():
        assert lookup(section, name) is not None


def test_names_are_unique_within_a_section() -> None:
    names = [(option.section, option.name) for option in OPTIONS]
    assert len(names) == len(set(names))


def test_the_document_is_current() -> None:
    document = Path(__file__).parents[3] / "docs" / "configuration.md"
    assert document.read_text() == page(), (
        "run: python -m replblk.admin.options_page > docs/configuration.md"
    )
