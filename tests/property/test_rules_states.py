"""All state changes of a small universe: the rules are total and keep what they promise."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from replblk.model.state import State
from replblk.model.vocabulary import Code, Fencing, OnNoData, Role
from replblk.model.vocabulary import ConnState as C
from replblk.model.vocabulary import DiskState as D
from replblk.rules.consequences import Follow, after_change
from replblk.rules.permits import forbidden_step, soft_step, validity
from replblk.rules.sanitizing import LIMITS
from replblk.rules.transitions import (
    Accepted,
    Facts,
    Refused,
    apply_mask,
    change,
    is_cluster_wide,
    mirror,
    sanitize,
)

flags = st.booleans()
states = st.builds(
    State,
    role=st.sampled_from([Role.PRIMARY, Role.SECONDARY]),
    peer=st.sampled_from(list(Role)),
    conn=st.sampled_from(list(C)),
    disk=st.sampled_from(list(D)),
    pdsk=st.sampled_from(list(D)),
    susp=flags,
    aftr_isp=flags,
    peer_isp=flags,
    user_isp=flags,
    susp_nod=flags,
    susp_fen=flags,
)
facts_given = st.builds(
    Facts,
    two_primaries=flags,
    fencing=st.sampled_from(list(Fencing)),
    on_no_data=st.sampled_from(list(OnNoData)),
    verify_alg=st.sampled_from(["", "sha256"]),
    apv=st.sampled_from([86, 87, 88, 96, 101]),
    device_open=flags,
    other_volume_peer_primary=flags,
    handshake_pending=flags,
    has_net=flags,
    exposed_is_current=flags,
    kept_disk=st.sampled_from([None, D.INCONSISTENT, D.OUTDATED, D.CONSISTENT, D.UP_TO_DATE]),
    kept_pdsk=st.sampled_from([None, D.OUTDATED, D.DUNKNOWN]),
)

OLDS = [
    State(),
    State(role=Role.PRIMARY, conn=C.WF_CONNECTION, disk=D.UP_TO_DATE),
    State(
        role=Role.PRIMARY,
        peer=Role.SECONDARY,
        conn=C.SYNC_SOURCE,
        disk=D.UP_TO_DATE,
        pdsk=D.INCONSISTENT,
    ),
    State(peer=Role.PRIMARY, conn=C.VERIFY_T, disk=D.UP_TO_DATE, pdsk=D.UP_TO_DATE),
]
CAREFUL = Facts(
    fencing=Fencing.RESOURCE_AND_STONITH, on_no_data=OnNoData.SUSPEND_IO, verify_alg="sha256"
)


@pytest.mark.parametrize("old", OLDS, ids=str)
def test_every_wanted_state_is_completed_once_and_for_all(old: State) -> None:
    for role, peer, conn, disk, pdsk, isp in product(
        (Role.PRIMARY, Role.SECONDARY),
        (Role.PRIMARY, Role.SECONDARY),
        C,
        D,
        D,
        (False, True),
    ):
        wanted = State(role=role, peer=peer, conn=conn, disk=disk, pdsk=pdsk, user_isp=isp)
        once, _ = sanitize(old, wanted, CAREFUL)
        assert sanitize(old, once, CAREFUL) == (once, ()), wanted
        disk_min, disk_max, pdsk_min, pdsk_max = LIMITS[once.conn]
        assert disk_min <= once.disk <= disk_max, wanted
        assert pdsk_min <= once.pdsk <= pdsk_max, wanted
        assert once.role == role


@settings(deadline=None)
@example(  # the disk goes while it is negotiated about: nothing waits for a resync any more
    State(),
    State(disk=D.NEGOTIATING, aftr_isp=True),
    Facts(),
)
@given(states, states, facts_given)
def test_sanitize_is_idempotent(old: State, wanted: State, facts: Facts) -> None:
    once, _ = sanitize(old, wanted, facts)
    assert sanitize(old, once, facts)[0] == once


@settings(deadline=None)
@given(states, states, facts_given, flags)
def test_change_is_total_and_says_what_the_rules_say(
    old: State, wanted: State, facts: Facts, hard: bool
) -> None:
    answer = change(old, wanted, facts, hard=hard)
    assert isinstance(answer, Accepted | Refused)
    if isinstance(answer, Refused):
        assert answer.code < Code.UNKNOWN_ERROR
        return
    new = answer.state
    if new == old:
        return
    assert forbidden_step(old, new) == Code.SUCCESS
    assert is_cluster_wide(old, new) in (True, False)
    if not hard:
        verdict = validity(new, facts)
        assert verdict == Code.SUCCESS or verdict == validity(old, facts)
        assert soft_step(old, new, facts) == Code.SUCCESS


@settings(deadline=None)
@given(states, facts_given)
def test_asking_again_for_what_one_got_changes_nothing(old: State, facts: Facts) -> None:
    answer = change(old, old.but(role=Role.PRIMARY), facts, hard=False)
    if isinstance(answer, Accepted) and answer.state != old:
        again = sanitize(answer.state, answer.state, facts)[0]
        assert again.role == Role.PRIMARY


@settings(deadline=None)
@given(states, facts_given)
def test_no_request_makes_a_primary_of_a_node_without_good_data(old: State, facts: Facts) -> None:
    """The only way is to declare the disk UpToDate at the same time, which is what force does."""
    if old.role == Role.PRIMARY or validity(old, facts) == Code.NO_UP_TO_DATE_DISK:
        return
    answer = change(old, old.but(role=Role.PRIMARY), facts, hard=False)
    if isinstance(answer, Accepted):
        assert D.UP_TO_DATE in (answer.state.disk, answer.state.pdsk)


@settings(deadline=None)
@given(states, states, st.sampled_from([87, 96, 97, 100, 101]))
def test_consequences_are_total_and_say_each_thing_once(old: State, new: State, apv: int) -> None:
    todo = after_change(old, new, apv=apv)
    assert len(set(todo)) == len(todo)
    if Follow.SEND_SYNC_UUID in todo:
        assert todo[0] == Follow.SEND_SYNC_UUID
    if Follow.SEND_UUIDS in todo:
        assert todo.index(Follow.SEND_UUIDS) < todo.index(Follow.SEND_STATE)
    if new.conn < C.CONNECTED:
        sent = {Follow.SEND_UUIDS, Follow.SEND_STATE, Follow.SEND_SIZES, Follow.SEND_BITMAP}
        assert not sent & set(todo)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), states)
def test_hostile_requests_are_mirrored_and_applied_or_told(
    mask: int, val: int, state: State
) -> None:
    mirrored = mirror(mask, val)
    assert 0 <= mirrored.mask < 1 << 23
    assert 0 <= mirrored.val < 1 << 23
    try:
        new = apply_mask(state, *mirrored)
    except ValueError:
        return
    assert new.packed() & ~mirrored.mask == state.packed() & ~mirrored.mask
