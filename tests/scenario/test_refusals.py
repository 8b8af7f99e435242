"""What DRBD refuses: its sentence, its exit status, what to do, and no trace left behind."""

from __future__ import annotations

import pytest

from replblk.engine.ports import Answer
from replblk.model.vocabulary import ConnState, DiskState, Role
from tests.support.lab import BLOCK, Lab


def ready() -> Lab:
    lab = Lab()
    lab.up()
    lab.primary("alpha")
    return lab


def refused(answer: Answer, exit_code: int, code: int, *words: str) -> None:
    assert (answer.exit_code, answer.code) == (exit_code, code), answer
    for word in words:
        assert word in answer.text, answer.text


def test_a_second_primary() -> None:
    lab = ready()
    answer = lab.command("beta", "primary")
    refused(answer, 11, -1, "Multiple primaries not allowed by config", "secondary there first")
    assert lab.state("beta").role is Role.SECONDARY
    assert lab.state("alpha").peer is Role.SECONDARY
    forced = lab.command("beta", "primary", force=True)
    refused(forced, 11, -1)


def test_secondary_while_a_client_has_it_open() -> None:
    lab = ready()
    assert lab.open("alpha") is None
    refused(lab.command("alpha", "secondary"), 11, -12, "Device is held open by someone")
    assert lab.state("alpha").role is Role.PRIMARY
    lab.close("alpha")
    lab.secondary("alpha")


def test_a_client_of_a_secondary_is_told_why() -> None:
    lab = ready()
    why = lab.open("beta")
    assert why is not None
    assert "r0/0 is Secondary on beta: only a Primary serves clients" in why


def test_disconnect_of_a_diskless_primary() -> None:
    lab = ready()
    assert lab.command("alpha", "detach").exit_code == 0
    refused(lab.command("alpha", "disconnect"), 17, -2, "Need access to UpToDate data")
    assert lab.state("alpha").conn is ConnState.CONNECTED


def test_detach_of_a_primary_without_a_peer() -> None:
    lab = ready()
    lab.disconnect("beta")
    lab.run_until(lambda: lab.state("alpha").pdsk is DiskState.DUNKNOWN)
    refused(lab.command("alpha", "detach"), 17, -2)
    assert lab.state("alpha").disk is DiskState.UP_TO_DATE
    lab.write("alpha", 0, bytes(BLOCK))


def test_detach_of_the_only_good_disk_under_a_primary_is_refused_by_the_peer() -> None:
    """beta serves from alpha's disk alone: alpha may not take it away."""
    lab = ready()
    assert lab.command("alpha", "detach").exit_code == 0
    answer = lab.command("beta", "detach")
    assert answer.exit_code in (11, 17)
    assert lab.state("beta").disk is DiskState.UP_TO_DATE


def test_connect_twice() -> None:
    lab = ready()
    refused(lab.command("alpha", "connect"), 10, 102, "Local address(port) already in use")


def test_disconnect_twice() -> None:
    lab = ready()
    lab.disconnect("beta")
    refused(lab.command("beta", "disconnect"), 10, 162)


def test_discard_my_data_on_a_primary() -> None:
    lab = ready()
    lab.disconnect("alpha")
    answer = lab.command("alpha", "connect", discard_my_data=True)
    refused(answer, 10, 123, "--discard-my-data not allowed when primary")


def test_attach_twice() -> None:
    lab = ready()
    refused(lab.command("alpha", "attach"), 10, 124)


def test_up_twice_changes_nothing_and_harms_nothing() -> None:
    lab = ready()
    before = lab.state("alpha")
    answer = lab.command("alpha", "up")
    assert answer.exit_code == 0
    assert lab.state("alpha") == before
    lab.write("alpha", 0, bytes(BLOCK))


def test_invalidate_without_a_connection_on_a_primary() -> None:
    lab = ready()
    lab.disconnect("alpha")
    answer = lab.command("alpha", "invalidate")
    assert answer.exit_code != 0
    assert lab.state("alpha").disk is DiskState.UP_TO_DATE


def test_invalidate_during_a_resync() -> None:
    lab = ready()
    lab.disconnect("beta")
    lab.write("alpha", 0, b"x" * BLOCK)
    assert lab.command("beta", "pause-sync").exit_code == 0
    lab.connect("beta")
    lab.reaches("beta", conn=ConnState.PAUSED_SYNC_T)
    refused(lab.command("beta", "invalidate"), 11, -8, "already active")


def test_pause_twice_and_resume_twice() -> None:
    lab = ready()
    assert lab.command("alpha", "pause-sync").exit_code == 0
    refused(lab.command("alpha", "pause-sync"), 10, 134)
    assert lab.command("alpha", "resume-sync").exit_code == 0
    refused(lab.command("alpha", "resume-sync"), 10, 135)


@pytest.mark.parametrize("verb", ["promote", "", "primary --force"])
def test_a_word_that_is_no_command(verb: str) -> None:
    lab = ready()
    refused(lab.command("alpha", verb), 1, 0, "Unknown command")


def test_a_volume_that_is_not_there() -> None:
    lab = ready()
    answer = lab.answered(lab.ask("alpha", "primary", volume=7))
    refused(answer, 1, 0, "volume 7 is not defined in r0")


def test_outdate_while_connected_is_undone_silently() -> None:
    lab = ready()
    assert lab.command("beta", "outdate").exit_code == 0
    assert lab.state("beta").disk is DiskState.UP_TO_DATE


def test_an_outdated_disk_is_not_promoted_but_by_force() -> None:
    lab = ready()
    lab.disconnect("beta")
    assert lab.command("beta", "outdate").exit_code == 0
    assert lab.state("beta").disk is DiskState.OUTDATED
    refused(lab.command("beta", "primary"), 17, -2)
    lab.beta.power_off()
    lab.alpha.kill()
    lab.boot("beta")
    assert lab.state("beta").disk is DiskState.OUTDATED
    lab.primary("beta", force=True)
