"""A Primary lets its disk go beside a peer that is replblk: nothing has to be named anew for that.

Decision 20. The connection may break, and both nodes may lose power, at any moment of it.
"""

from __future__ import annotations

import pytest

from replblk.engine import detaching
from replblk.model.vocabulary import ConnState, DiskState
from tests.support.lab import BLOCK, Lab
from tests.support.pair import Request

OLD, NEW = b"old." * 1024, b"new!" * 1024
MOMENTS_US = range(0, 1400, 35)
"""The whole journey takes less, writes in flight before it and one after it included."""


def ready(**options: object) -> Lab:
    lab = Lab(**options)  # type: ignore[arg-type]
    lab.up()
    lab.primary("alpha")
    for block in range(6):
        lab.write("alpha", block * BLOCK, OLD)
    lab.run_for(0.1)
    return lab


def written(lab: Lab, blocks: range) -> list[Request]:
    return [lab.submit("alpha", "write", block * BLOCK, BLOCK, data=NEW) for block in blocks]


def generation(lab: Lab, name: str) -> int:
    return lab.durable_uuids(name).current | 1


def test_the_peer_begins_a_generation_with_the_first_write_that_only_it_gets() -> None:
    lab = ready()
    before = generation(lab, "beta")
    assert lab.command("alpha", "detach").exit_code == 0
    lab.run_for(20)
    assert generation(lab, "beta") == before
    assert not lab.told("alpha", "begins no new generation")
    request = lab.submit("alpha", "write", 0, BLOCK, data=NEW)
    lab.run_until(lambda: request.done, what="the answer")
    assert request.errno == 0
    assert generation(lab, "beta") != before == generation(lab, "alpha")
    assert 0 in lab.durable_bits("beta") or 0 in lab.durable_extents("beta")


def test_nothing_was_written_and_the_disk_comes_back() -> None:
    lab = ready()
    assert lab.command("alpha", "detach").exit_code == 0
    assert lab.command("alpha", "attach").exit_code == 0
    lab.in_sync()
    assert lab.read("alpha", 0, BLOCK) == OLD
    assert lab.differing_blocks() == []


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("at_us", MOMENTS_US)
def test_the_connection_breaks_while_a_primary_detaches(at_us: int, busy: bool) -> None:
    """Before the disk is gone it stays; afterwards the peer has the data, under the same name."""
    lab = ready()
    requests = written(lab, range(3)) if busy else []
    detach = lab.ask("alpha", "detach")
    lab.run_for(at_us / 1e6)
    lab.cut()
    lab.connected()
    assert lab.answered(detach).exit_code in (0, 17)
    assert [lab.done(request).errno for request in requests] == [0] * len(requests)
    assert not lab.told("alpha", "Split-Brain") and not lab.told("beta", "Split-Brain")
    lab.write("alpha", 4 * BLOCK, NEW)
    if lab.shows("alpha", disk=DiskState.DISKLESS):
        assert lab.command("alpha", "attach").exit_code == 0
    lab.in_sync()
    assert lab.differing_blocks() == []
    assert lab.on_disk("beta", 4 * BLOCK, BLOCK) == NEW
    for block in range(len(requests)):
        assert lab.on_disk("beta", block * BLOCK, BLOCK) == NEW


@pytest.mark.parametrize("first", ["alpha", "beta"])
@pytest.mark.parametrize("at_us", MOMENTS_US)
def test_both_lose_power_while_a_primary_detaches(at_us: int, first: str) -> None:
    """Whoever comes back first: what was acknowledged is there, before the detach or after it."""
    lab = ready()
    requests = written(lab, range(2))
    lab.ask("alpha", "detach")
    lab.run_for(0.0001)
    requests += written(lab, range(2, 5))
    lab.run_for(at_us / 1e6)
    acknowledged = [n for n, request in enumerate(requests) if request.done and not request.errno]
    for name in ("alpha", "beta"):
        lab[name].power_off()
    for name in (first, "beta" if first == "alpha" else "alpha"):
        lab[name].boot()
        lab.command(name, "up")
    lab.in_sync()
    assert lab.differing_blocks() == []
    for block in acknowledged:
        assert lab.on_disk("alpha", block * BLOCK, BLOCK) == NEW


def test_what_the_peer_names_anew_is_known_to_be_elsewhere_though_the_word_of_it_is_lost() -> None:
    """Old data are not attached alone, nor is the peer refused that has the new ones (simulator,
    wide 73003038: acknowledgements came, P_UUIDS on the other socket did not)."""
    lab = ready()
    before = generation(lab, "beta")
    assert lab.command("alpha", "detach").exit_code == 0
    lab.network.block(lab.beta, lab.alpha)
    lab.submit("alpha", "write", 0, BLOCK, data=NEW)
    lab.run_until(lambda: lab.on_disk("beta", 0, BLOCK) == NEW, what="the write")
    lab.partition()
    lab.reaches("alpha", conn=ConnState.WF_CONNECTION)
    assert generation(lab, "beta") != before == generation(lab, "alpha")
    answer = lab.command("alpha", "attach")
    assert answer.exit_code == 10
    assert "What was written last went to the peer alone: connect to it first" in answer.text
    lab.heal()
    lab.reaches("alpha", conn=ConnState.CONNECTED, pdsk=DiskState.UP_TO_DATE)
    assert lab.read("alpha", 0, BLOCK) == NEW
    assert lab.command("alpha", "attach").exit_code == 0
    lab.in_sync()
    assert lab.differing_blocks() == []
    assert not lab.told("alpha", "Split-Brain")


def test_a_disk_that_hangs_is_not_waited_for() -> None:
    """Then it goes as ever: what comes goes to the peer, and the peer named its data before."""
    lab = ready()
    before = generation(lab, "beta")
    lab.hold("alpha")
    hanging = lab.submit("alpha", "write", 0, BLOCK, data=NEW)
    lab.run_for(0.01)
    detach = lab.ask("alpha", "detach")
    lab.run_for(1.1)
    behind = lab.submit("alpha", "write", BLOCK, BLOCK, data=NEW)
    lab.run_until(lambda: behind.done, 10**8, what="the answer of the peer alone")
    assert behind.errno == 0
    assert not hanging.done
    assert generation(lab, "beta") != before
    lab.release("alpha")
    assert lab.answered(detach).exit_code == 0
    assert lab.done(hanging).errno == 0


def test_a_peer_that_does_not_acknowledge_is_not_asked() -> None:
    """It would hear of it when it is given up, and begin a generation (simulator, wide 1000038)."""
    lab = ready()
    lab.beta.pause()
    request = lab.submit("alpha", "write", 0, BLOCK, data=NEW)
    answer = lab.command("alpha", "detach")
    assert (answer.exit_code, answer.code) == (11, -18)
    assert lab.shows("alpha", disk=DiskState.UP_TO_DATE, conn=ConnState.CONNECTED)
    lab.beta.resume()
    assert lab.done(request).errno == 0


def test_reads_and_flushes_wait_for_the_moment_and_go_on() -> None:
    lab = ready()
    detach = lab.ask("alpha", "detach")
    lab.run_for(0.00005)
    read = lab.submit("alpha", "read", 0, BLOCK)
    flush = lab.submit("alpha", "flush", 0, 0)
    assert lab.done(read).errno == 0
    assert read.data == OLD
    assert lab.done(flush).errno == 0
    assert lab.answered(detach).exit_code == 0


def test_beside_a_peer_that_passes_over_the_flag_all_is_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lab = ready()
    before = generation(lab, "beta")
    monkeypatch.setattr(detaching, "UUID_FLAG_DETACHES", 0)
    assert lab.command("alpha", "detach").exit_code == 0
    lab.run_until(lambda: generation(lab, "beta") != before, what="a generation for nothing")


def test_without_durable_writes_the_peer_names_its_data_at_once() -> None:
    """What the disk was not told to flush it may lose; the name says that it is the older one."""
    lab = ready(settings={"durability": "kernel"})
    before = generation(lab, "beta")
    assert lab.command("alpha", "detach").exit_code == 0
    lab.run_until(lambda: generation(lab, "beta") != before, what="a generation")


@pytest.mark.parametrize("verb", ["invalidate", "detach"])
@pytest.mark.parametrize("at_us", range(0, 800, 20))
def test_the_peer_gives_its_own_data_up_in_the_same_moment(at_us: int, verb: str) -> None:
    """Somebody keeps the data: one of the two is refused, or has nothing to do."""
    lab = ready()
    here = lab.ask("alpha", "detach")
    lab.run_for(at_us / 1e6)
    there = lab.ask("beta", verb)
    exits = lab.answered(here).exit_code, lab.answered(there).exit_code
    assert 0 in exits
    assert verb == "invalidate" or any(exits)
    lab.run_for(5)
    good = [m for m in (lab.alpha, lab.beta) if m.states[0].disk is DiskState.UP_TO_DATE]
    assert good
    assert lab.read("alpha", 0, BLOCK) == OLD
    assert lab.shows("alpha", conn=ConnState.CONNECTED)


def test_a_write_in_flight_fails_while_a_primary_detaches() -> None:
    """It is waited for; only the peer has it, so it is answered under a new name, as ever."""
    lab = ready()
    before = generation(lab, "beta")
    lab.fail("alpha", "data", "write")
    request = lab.submit("alpha", "write", 0, BLOCK, data=NEW)
    detach = lab.ask("alpha", "detach")
    lab.run_until(lambda: request.done, what="the answer")
    assert request.errno == 0
    assert generation(lab, "beta") != before == generation(lab, "alpha")
    assert lab.answered(detach).exit_code == 0
