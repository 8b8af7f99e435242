"""The after-sb policies, table by table."""

from __future__ import annotations

import pytest

from replblk.model.vocabulary import Policy
from replblk.rules.split_brain import Conflict, Fate, Policies, resolve

ZERO_PRI = (
    Policy.DISCONNECT,
    Policy.DISCARD_YOUNGER_PRI,
    Policy.DISCARD_OLDER_PRI,
    Policy.DISCARD_ZERO_CHG,
    Policy.DISCARD_LEAST_CHG,
    Policy.DISCARD_LOCAL,
    Policy.DISCARD_REMOTE,
)


def _conflict(
    older: tuple[bool, bool] = (False, False),
    changes: tuple[int, int] = (1, 1),
    *,
    primary: bool = False,
    rc: bool = True,
    can_demote: bool = False,
) -> Conflict:
    return Conflict(
        own_primary=primary,
        own_older=older[0],
        peer_older=older[1],
        own_changes=changes[0],
        peer_changes=changes[1],
        resolves_conflicts=rc,
        can_demote=can_demote,
    )


def _fate(primaries: int, policies: Policies, conflict: Conflict) -> int:
    return resolve(primaries, policies, conflict).fate.value


@pytest.mark.parametrize(
    ("policy", "older", "changes", "rc", "fate"),
    [
        (Policy.DISCONNECT, (0, 1), (0, 1), 1, -100),
        (Policy.DISCARD_YOUNGER_PRI, (0, 1), (9, 1), 1, -1),
        (Policy.DISCARD_YOUNGER_PRI, (1, 0), (1, 9), 1, 1),
        (Policy.DISCARD_YOUNGER_PRI, (1, 1), (0, 0), 1, -1),
        (Policy.DISCARD_YOUNGER_PRI, (0, 0), (0, 0), 0, 1),
        (Policy.DISCARD_YOUNGER_PRI, (0, 0), (5, 0), 1, 1),
        (Policy.DISCARD_YOUNGER_PRI, (0, 0), (0, 5), 0, -1),
        (Policy.DISCARD_YOUNGER_PRI, (0, 0), (1, 2), 0, -1),
        (Policy.DISCARD_OLDER_PRI, (0, 1), (1, 9), 1, 1),
        (Policy.DISCARD_OLDER_PRI, (1, 0), (9, 1), 1, -1),
        (Policy.DISCARD_OLDER_PRI, (1, 1), (2, 2), 1, -1),
        (Policy.DISCARD_OLDER_PRI, (0, 0), (2, 2), 0, 1),
        (Policy.DISCARD_ZERO_CHG, (0, 0), (0, 0), 1, -1),
        (Policy.DISCARD_ZERO_CHG, (0, 0), (0, 0), 0, 1),
        (Policy.DISCARD_ZERO_CHG, (0, 0), (3, 0), 1, 1),
        (Policy.DISCARD_ZERO_CHG, (0, 0), (0, 3), 0, -1),
        (Policy.DISCARD_ZERO_CHG, (0, 0), (1, 3), 1, -100),
        (Policy.DISCARD_LEAST_CHG, (0, 0), (1, 3), 0, -1),
        (Policy.DISCARD_LEAST_CHG, (0, 0), (3, 1), 1, 1),
        (Policy.DISCARD_LEAST_CHG, (0, 0), (3, 3), 1, -1),
        (Policy.DISCARD_LEAST_CHG, (0, 0), (3, 3), 0, 1),
        (Policy.DISCARD_LOCAL, (0, 0), (9, 0), 1, -1),
        (Policy.DISCARD_REMOTE, (0, 0), (0, 9), 1, 1),
    ],
)
def test_no_primary(
    policy: Policy, older: tuple[int, int], changes: tuple[int, int], rc: int, fate: int
) -> None:
    conflict = _conflict((bool(older[0]), bool(older[1])), changes, rc=bool(rc))
    assert _fate(0, Policies(zero=policy), conflict) == fate


def test_the_fallback_of_younger_and_older_says_so() -> None:
    resolution = resolve(0, Policies(zero=Policy.DISCARD_OLDER_PRI), _conflict())
    assert resolution.warnings == (
        "Discard older primary did not find a decision",
        "Using discard-least-changes instead",
    )


# own changes 1, peer 2, so after-sb-0pri discard-least-changes makes us the victim; (2, 1) survivor
@pytest.mark.parametrize(
    ("policy", "changes", "primary", "fate"),
    [
        (Policy.DISCONNECT, (1, 2), True, -100),
        (Policy.CONSENSUS, (1, 2), False, -1),
        (Policy.CONSENSUS, (1, 2), True, -100),
        (Policy.CONSENSUS, (2, 1), True, 1),
        (Policy.CONSENSUS, (2, 1), False, -100),
        (Policy.VIOLENTLY, (1, 2), True, -1),
        (Policy.VIOLENTLY, (2, 1), False, 1),
        (Policy.DISCARD_SECONDARY, (1, 2), True, 1),
        (Policy.DISCARD_SECONDARY, (2, 1), False, -1),
        (Policy.CALL_HELPER, (2, 1), True, 1),
        (Policy.CALL_HELPER, (1, 2), False, -1),
        (Policy.CALL_HELPER, (2, 1), False, 1),
    ],
)
def test_one_primary(policy: Policy, changes: tuple[int, int], primary: bool, fate: int) -> None:
    policies = Policies(zero=Policy.DISCARD_LEAST_CHG, one=policy)
    assert _fate(1, policies, _conflict((False, False), changes, primary=primary)) == fate


@pytest.mark.parametrize("primaries", [1, 2])
def test_a_primary_victim_gives_up_its_role_or_calls_for_help(primaries: int) -> None:
    policies = Policies(zero=Policy.DISCARD_LOCAL, one=Policy.CALL_HELPER, two=Policy.CALL_HELPER)
    free = resolve(primaries, policies, _conflict(primary=True, can_demote=True))
    assert (free.fate, free.demote, free.handlers) == (Fate.VICTIM, True, ())
    assert "Successfully gave up primary role." in free.warnings
    busy = resolve(primaries, policies, _conflict(primary=True))
    assert (busy.fate, busy.demote) == (Fate.UNRESOLVED, False)
    assert busy.handlers == ("pri-lost-after-sb",)


@pytest.mark.parametrize(
    ("policy", "fate"),
    [(Policy.DISCONNECT, -100), (Policy.VIOLENTLY, -1), (Policy.CALL_HELPER, -100)],
)
def test_two_primaries(policy: Policy, fate: int) -> None:
    policies = Policies(zero=Policy.DISCARD_LEAST_CHG, two=policy)
    assert _fate(2, policies, _conflict((False, False), (1, 2), primary=True)) == fate


@pytest.mark.parametrize(
    ("primaries", "policies"),
    [
        *((0, Policies(zero=p)) for p in Policy if p not in ZERO_PRI),
        *((1, Policies(one=p)) for p in ZERO_PRI[1:]),
        *(
            (2, Policies(two=p))
            for p in (*ZERO_PRI[1:], Policy.CONSENSUS, Policy.DISCARD_SECONDARY)
        ),
    ],
)
def test_a_policy_in_the_wrong_place_decides_nothing(primaries: int, policies: Policies) -> None:
    resolution = resolve(primaries, policies, _conflict(primary=primaries == 2))
    assert resolution.fate == Fate.UNRESOLVED
    assert resolution.warnings[0].startswith("Configuration error: after-sb-")
