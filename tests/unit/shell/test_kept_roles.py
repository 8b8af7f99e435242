"""The file of roles: written with the role, kept over the process's end, forgotten by command."""

from __future__ import annotations

from pathlib import Path

import pytest

from replblk.model.notices import StateChanged
from replblk.model.state import State
from replblk.model.vocabulary import Role
from replblk.shell.kept_roles import KeptRoles


def turns(volume: int, role: Role) -> StateChanged:
    other = Role.SECONDARY if role is Role.PRIMARY else Role.PRIMARY
    return StateChanged(volume, State(role=other), State(role=role), "administrator")


def test_the_next_process_knows_who_was_primary(tmp_path: Path) -> None:
    path = tmp_path / "roles"
    first = KeptRoles(path, enabled=True)
    assert first.primary == frozenset()
    first.notice(turns(0, Role.PRIMARY))
    first.notice(turns(3, Role.PRIMARY))
    first.notice(turns(0, Role.SECONDARY))
    assert KeptRoles(path, enabled=True).primary == {3}
    first.notice(turns(3, Role.SECONDARY))
    assert not path.exists()


def test_once_frozen_a_demotion_is_not_a_wish(tmp_path: Path) -> None:
    path = tmp_path / "roles"
    kept = KeptRoles(path, enabled=True)
    kept.notice(turns(0, Role.PRIMARY))
    kept.freeze()
    kept.notice(turns(0, Role.SECONDARY))
    assert KeptRoles(path, enabled=True).primary == {0}


def test_a_role_that_was_not_resumed_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "roles"
    KeptRoles(path, enabled=True).notice(turns(0, Role.PRIMARY))
    KeptRoles(path, enabled=True).forget(0)
    assert not path.exists()


def test_without_the_setting_nothing_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "roles"
    KeptRoles(path, enabled=True).notice(turns(0, Role.PRIMARY))
    off = KeptRoles(path, enabled=False)
    assert off.primary == frozenset()
    off.notice(turns(0, Role.PRIMARY))
    assert not path.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"primary": 5}', '{"primary": ["0"]}', "null"])
def test_a_file_that_makes_no_sense_resumes_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "roles").write_text(text)
    assert KeptRoles(tmp_path / "roles", enabled=True).primary == frozenset()
