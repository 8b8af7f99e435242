"""Virtual time passes in order, chance comes from the seed, and both can be read afterwards."""

from __future__ import annotations

import pytest

from replblk.sim.options import PROFILES, draw
from replblk.sim.packet_names import packet_names
from replblk.sim.transcript import Transcript
from replblk.sim.world import SimulationError, World


def test_events_happen_in_the_order_of_time_and_then_of_asking() -> None:
    world, seen = World(1), list[str]()
    world.after(20, seen.append, "late")
    world.after(10, seen.append, "first")
    world.after(10, seen.append, "second")
    world.run_for(15)
    assert seen == ["first", "second"]
    assert world.now_ns == 15
    world.run_for(5)
    assert seen[-1] == "late"


def test_waiting_for_what_never_happens_ends_at_the_limit() -> None:
    world = World(1)
    assert not world.run_until(lambda: False, 1000)
    assert world.now_ns == 1000


def test_a_world_that_never_rests_is_stopped() -> None:
    world = World(1, events_max=100)

    def again() -> None:
        world.after(0, again)

    again()
    with pytest.raises(SimulationError, match="no end in sight"):
        world.run_for(1)


def test_streams_of_chance_do_not_disturb_each_other() -> None:
    first, second = World(5), World(5)
    first.chance("a").random()
    assert first.chance("b").random() == second.chance("b").random()
    assert first.chance("b").random() != World(6).chance("b").random()


def test_a_transcript_is_the_text_of_its_entries() -> None:
    transcript = Transcript()
    transcript.entries.append((1_000, "alpha", "link {} sends {} bytes", (1, 2)))
    transcript.entries.append((2_000, "beta", "a {brace} without arguments", ()))
    lines = list(transcript.lines())
    assert lines[0].split() == ["1,000", "alpha", "link", "1", "sends", "2", "bytes"]
    assert "{brace}" in lines[1]
    assert list(transcript.lines(1)) == lines[1:]


@pytest.mark.parametrize("profile", PROFILES)
def test_the_options_of_a_seed_are_always_the_same_and_differ_between_seeds(profile: str) -> None:
    assert draw(3, profile) == draw(3, profile)
    assert draw(3, profile) != draw(4, profile)


def test_a_profile_by_its_own_name_is_the_run_that_mixed_chose() -> None:
    for seed in range(30):
        mixed = draw(seed)
        assert draw(seed, mixed.profile) == mixed


def test_packets_are_named_and_other_bytes_are_counted() -> None:
    ping = bytes.fromhex("8620ec20 0000 0013 00000000 00000000")
    volume_1 = bytes.fromhex("8620ec20 0001 0003 00000008 00000000") + bytes(8)
    assert packet_names(ping + volume_1) == "P_PING P_BARRIER/1"
    assert packet_names(ping + b"xyz") == "P_PING (3 bytes)"
    assert packet_names(bytes.fromhex("83740267 fffe 0048") + bytes(72)) == "P_CONNECTION_FEATURES"
    assert packet_names(ping * 20).endswith("... 8 more")
