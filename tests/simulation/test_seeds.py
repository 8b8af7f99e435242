"""Seeds of the simulator on every run of the tests: random faults, every invariant watched."""

from __future__ import annotations

import pytest

from replblk.sim import runner
from replblk.sim.options import Options, draw
from replblk.sim.run import Outcome, run_seed
from replblk.sim.runner import main
from replblk.sim.wider import draw_any

SEEDS = range(1, 41)
ONCE_FAILED = (
    44,  # a diskless Primary and a stale peer: the peer rotated its generation
    576,  # the source lost its disk in the bitmap exchange: the stale target became UpToDate
    989,  # two superblock writes in flight at once
    1014,  # promoted in the middle of a resync: resync data overwrote a newer write
    1016,  # as 576, with a promotion of the stale node
    1505,  # as 1014, two volumes
    2133,  # what a killed process left in the cache was copied to the peer, then lost by power cut
    4307,  # a late answer of an aborted resync dropped the connection
    10936,  # a sync source alone, its target done unseen: writes without a generation of their own
    12027,  # the generations met before the cleared bitmap was on disk: bits for ever
    12033,  # the Primary mark was taken back though the bitmap could not be written
    12517,  # as 10936, two volumes
    20237,  # acknowledged by the peer alone, both nodes lost power before it named its data anew
    30442,  # three cuts in one chain of resyncs: a split brain that was none
    34068,  # not the pair's fault: a client wrote on while the disks were compared
    37243,  # not the pair's fault: delays beyond ping-timeout went on after everything was mended
    100373,  # writes of a Primary without a disk, applied after the connection was lost: unmarked
    105099,  # not the pair's fault: clients that found no free place kept looking, for seconds
    200846,  # the source's disk failed when the target was done: it called that Inconsistent
    202332,  # not the pair's fault: nobody had all volumes, yet somebody was promoted
    5183,  # an acknowledgement on the meta socket counted as noise in a bitmap transfer
)

WIDER_SEEDS = [
    (profile, seed)
    for profile, count in (
        ("kernel", 12),
        ("wide", 12),
        ("storm", 4),
        ("lies", 4),
        ("harsh", 6),
        ("policies", 8),
        ("fenced", 8),
        ("metadata-lies", 4),
        ("resize", 4),
    )
    for seed in range(1, count + 1)
]
WIDER_ONCE_FAILED = (
    ("storm", 75002146),  # refused by a peer that was about to be invalidated: no generation
    ("wide", 74001355),  # detached when done, unseen: it wrote in the generation of both
    (
        "wide",
        73003038,
    ),  # old data attached alone: acknowledgements came, the new generation did not
    ("policies", 73002452),  # UpToDate twice, and different: a write had failed on the source alone
    ("policies", 72006005),  # refused by the peer while I/O was suspended: the generation of both
    ("storm", 72006418),  # not the pair's fault: a machine was started twice after the storm
    ("wide", 71002351),  # refused by a disk that was already back: the resync's source had no end
    ("wide", 70001049),  # written to the peer alone while a Primary attached the newer data: EIO
    ("wide", 70004345),  # as wide 70001049, a trim
    ("wide", 70001715),  # the target went before the sync UUID was durable: answered without one
    ("resize", 70001900),  # as wide 70001715: a refused write, and a resync of new storage
    ("runs", 70002361),  # the disk failed in a verify: writes overtook the word of it
    ("policies", 70003672),  # not the pair's fault: four generations by hand between two meetings
    ("policies", 13000039),  # as policies 70003672
    ("harsh", 6001277),  # the source forgot what its target has; and a mark was withdrawn late
    ("policies", 6000984),  # as harsh 6001277, by new-current-uuid: refused as unrelated
    ("runs", 7001545),  # as policies 6000984
    ("harsh", 10000806),  # answers of an aborted resync were expected after their connection
    ("wide", 7001980),  # not the pair's fault: a copy of a generation that the target may have
    ("runs", 6000580),  # the peer went while a diskless Primary attached: older data were served
    ("fenced", 7000151),  # not the pair's fault: one of the two Primaries had no data to serve
    ("policies", 7001366),  # a frozen write that only the bad disk had was told EIO
    ("runs", 37),  # resync data that were on their way withdrew the mark of a later, failed write
    ("policies", 5001745),  # promoted beside a disk that had passed its error on: no generation
    ("metadata-lies", 1000002),  # P_SYNC_UUID overtook the consent to invalidate: a protocol error
    ("resize", 20),  # a diskless Primary took the size of a disk that its peer was only asked about
    ("resize", 4086),  # the device grew again while its metadata moved over the old ones
    ("resize", 4467),  # a superblock that may be left of a failed write was relied on
    ("resize", 88),  # a Secondary that had asked for less, and was cut, never connected again
    ("resize", 1145),  # decided before another change of the size, carried out after it
    ("wide", 3006018),  # a verify of the Secondary, and a write that waits for it, waited for by it
    ("policies", 3000028),  # frozen writes were answered when the peer came back without its disk
    ("kernel", 3001018),  # demoted while the flush for the end of a resync ran: none of its own
    ("wide", 20003212),  # attached alone what the peer had told to be older, and promoted
    ("wide", 20003702),  # written by a diskless Primary after the bitmap was told: marked nowhere
    ("harsh", 20003337),  # the disk went after the peer had agreed to part: written there, unmarked
    ("wide", 20004770),  # paused when all was copied: the resync never ended
    ("kernel", 40001143),  # protocol A: the peer was read before what it had got, and not written
    ("storm", 277),  # both disks gone, one came back: written in the generation of both
    ("harsh", 30000927),  # not the pair's fault: a failed flush, read, resynced, then lost
    ("kernel", 30000317),  # an epoch acknowledged although its disk was gone before the flush
    ("resize", 20005446),  # not the pair's fault: promoted with the size from before a resize
    ("kernel", 20000486),  # not the pair's fault: with protocol A, FUA says nothing of the peer
    ("fenced", 3001053),  # not the pair's fault: a write of what was there already changes nothing
    ("fenced", 3001030),  # not the pair's fault: fenced, and I/O goes on in this very step
    ("policies", 3001036),  # a generation begun by hand, and the planned one on top of it
    ("fenced", 3002049),  # not the pair's fault: frozen I/O, and nobody connected the peer
    ("fenced", 3003044),  # not the pair's fault: two Primaries, one of them without any data
    ("wide", 1000053),  # cut while a Primary detached: both nodes began a generation, for nothing
    ("wide", 7001274),  # as wide 1000053, two volumes
    ("wide", 7001377),  # as wide 1000053
    ("wide", 1000038),  # the same, the peer had stood still
    ("fenced", 6000888),  # resource-only: a generation begun alone, with no write: a split brain
    ("fenced", 1000117),  # resource-only: answered alone, though the peer had it: a split brain
    ("lies", 1200024),  # not the pair's fault: a verify was cut off, what it had found was repaired
    ("fenced", 1200475),  # a write that never went to the peer was answered while I/O was frozen
    (
        "policies",
        1200366,
    ),  # not the pair's fault: a failed write was seen, then lost with the power
    ("harsh", 700836),  # the only disk of a diskless Primary kept book before it was marked so
    ("fenced", 700892),  # promoted in a bitmap exchange: writes in the generation of both
    ("fenced", 701087),  # cut while it left as Outdated: the Primary took it so, it did not
    ("storm", 7),  # writes not replicated, in the old generation, while a peer was invalidated
    ("storm", 28),  # as storm 7
    ("wide", 460),  # detached while a verify ran: the late answer cost the connection
    ("kernel", 7),  # the disk was gone when the transaction that waited for its bitmap heard of it
    ("wide", 520029),  # not the pair's fault: a disk was rolled back, the other held a mixture
    ("storm", 7065),  # a Primary got its disk back without its peer, in the old generation
    (
        "kernel",
        373,
    ),  # protocol A, no disk here: nobody ended the epoch a write waited for
    ("policies", 19),  # refused by the peer, acknowledged in the generation that both disks bear
    ("fenced", 13),  # frozen I/O went on beside a peer that restarted and that nobody had fenced
    ("kernel", 2),  # marks of a sync source were withdrawn before its own data were flushed
    ("kernel", 33),  # demoted with data that only the peer had flushed: both lost power, unmarked
)


@pytest.mark.parametrize("seed", [*SEEDS, *ONCE_FAILED])
def test_no_invariant_is_violated(seed: int) -> None:
    outcome = run_seed(draw(seed))
    assert not outcome.failure, f"{outcome.failure}\nrepeat: python -m replblk.sim --seed {seed}"
    assert outcome.writes_acked


@pytest.mark.parametrize(("profile", "seed"), [*WIDER_SEEDS, *WIDER_ONCE_FAILED])
def test_no_invariant_is_violated_by_the_wider_faults(profile: str, seed: int) -> None:
    outcome = run_seed(draw_any(seed, profile))
    repeat = f"python -m replblk.sim --profile {profile} --seed {seed}"
    assert not outcome.failure, f"{outcome.failure}\nrepeat: {repeat}"


@pytest.mark.parametrize(
    "profile",
    [
        *("careful", "erring", "calm", "kernel", "wide", "storm", "lies", "resize", "harsh"),
        *("policies", "fenced", "metadata-lies", "handover", "runs"),
    ],
)
def test_the_same_seed_gives_the_same_transcript_byte_for_byte(profile: str) -> None:
    first, second = (run_seed(draw_any(7, profile)) for _ in range(2))
    assert list(first.transcript.lines()) == list(second.transcript.lines())
    assert first.transcript.sha256() == second.transcript.sha256()
    assert first.transcript.sha256() != run_seed(draw_any(8, profile)).transcript.sha256()


def test_without_faults_the_pair_never_reports_an_error() -> None:
    for seed in range(5):
        outcome = run_seed(draw(seed, "calm"))
        assert not outcome.failure
        assert "error told to a client" not in outcome.marks


def test_a_run_of_many_seeds_ends_with_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "1", "--count", "4", "--profile", "calm"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("4 seeds, 0 failed, ")
    assert "acknowledged writes" in last


def test_power_cuts_of_one_node_at_its_disk_operations(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "3", "--crash-points", "--stride", "25"]) == 0
    runs, *rest = capsys.readouterr().out.split()
    assert int(runs) > 4
    assert " ".join(rest) == "crash points of 1 seeds, 0 failed"


def test_a_run_of_many_seeds_that_is_interrupted_tells_what_it_brought(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter((runner.run_seed, runner.run_seed))

    def interrupted(options: Options) -> Outcome:
        try:
            return next(calls)(options)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(runner, "run_seed", interrupted)
    assert main(["--seed", "1", "--count", "10", "--profile", "calm"]) == 130
    *_, summary, last = capsys.readouterr().out.splitlines()
    assert summary.startswith("2 seeds, 0 failed, ")
    assert last == "interrupted: 8 seeds were not run"


def test_the_handlers_of_a_split_brain_and_of_a_verify_are_called_sometimes() -> None:
    """Profiles that know neither policies nor fencing have handlers in every fourth run."""
    called: set[str] = set()
    for profile, seeds in (("lies", (4, 8)), ("erring", (4, 8, 12))):
        for seed in seeds:
            called |= set(run_seed(draw_any(seed, profile)).marks)
    assert {"handler split-brain", "handler out-of-sync"} <= called
