"""The documents name tests; here it is seen that every one of them exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def named_in(document: str) -> list[tuple[str, str]]:
    return NAMED.findall((ROOT / "docs" / document).read_text())


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("document", ["guarantees.md", "testing.md"])
def test_every_test_that_a_document_names_exists(document: str) -> None:
    named = named_in(document)
    assert len(named) > 10
    for file, function in named:
        path = ROOT / file
        assert path.exists(), f"docs/{document} names {file}"
        assert not function or function in functions_of(path), (
            f"docs/{document}: {file}::{function}"
        )


def test_every_promise_has_a_test_that_attacks_it() -> None:
    text = (ROOT / "docs" / "guarantees.md").read_text()
    promises = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert len(promises) >= 7
    for promise in promises:
        assert NAMED.search(promise), promise.splitlines()[0]
