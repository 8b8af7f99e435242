"""Two nodes that know each other's disks decide for one size, whoever decides first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from replblk.rules.sizes import agreed_size, effective_user_size

sectors = st.integers(1, 1 << 40)
limit = st.one_of(st.just(0), sectors)


@given(sectors, sectors, sectors, limit)
def test_both_nodes_find_the_same_size(first: int, second: int, last: int, user: int) -> None:
    here, _ = agreed_size(first, second, last, user, connected=True, assume_peer_has_space=False)
    there, _ = agreed_size(second, first, last, user, connected=True, assume_peer_has_space=False)
    assert here == there
    assert here <= min(first, second)


@given(limit, limit, limit, limit, st.booleans(), st.booleans())
def test_never_more_than_a_known_disk_holds(
    own: int, peer: int, last: int, user: int, connected: bool, forced: bool
) -> None:
    size, _ = agreed_size(own, peer, last, user, connected=connected, assume_peer_has_space=forced)
    assert size <= own or not own
    assert size <= peer or not peer or (forced and not connected)
    assert size == user or size == max(size, 0)


@given(sectors, sectors, sectors)
def test_a_device_that_grew_at_both_ends_takes_what_the_smaller_one_has(
    last: int, first: int, second: int
) -> None:
    own, peer = last + first, last + second
    size, _ = agreed_size(own, peer, last, 0, connected=True, assume_peer_has_space=False)
    assert size == last + min(first, second)
    alone, _ = agreed_size(own, 0, last, 0, connected=False, assume_peer_has_space=False)
    assert alone == last


@given(limit, limit)
def test_while_connecting_the_smaller_wish_counts_on_both(own: int, peer: int) -> None:
    assert effective_user_size(own, peer) == effective_user_size(peer, own)
