"""Frozen I/O under a storm of cuts: nothing acknowledged is lost, and both disks end up equal."""

from __future__ import annotations

import random

import pytest

from replblk.model.vocabulary import ConnState, DiskState, Fencing, OnNoData
from replblk.sim.handlers import HandlerEnds
from tests.support.lab import BLOCK, Lab
from tests.support.pair import Request

BLOCKS = 12
STEPS = 60


class Storm:
    """alpha is Primary and written to all the time; the rest is chance."""

    def __init__(self, seed: int, durability: str) -> None:
        self.chance = random.Random(seed)
        self.lab = Lab(
            seed=seed,
            net={"timeout": 5, "ko_count": 2, "ping_int": 1},
            disk={"fencing": Fencing.RESOURCE_AND_STONITH},
            resource={
                "handlers": {"fence-peer": "/fence"},
                "on_no_data_accessible": OnNoData.SUSPEND_IO,
            },
            settings={"durability": durability},
        )
        self.written: dict[int, list[tuple[bytes, Request]]] = {n: [] for n in range(BLOCKS)}
        self.lab.up()
        self.lab.primary("alpha")

    def write(self) -> None:
        block = self.chance.randrange(BLOCKS)
        data = self.chance.randbytes(16) * (BLOCK // 16)
        self.written[block].append(
            (data, self.lab.submit("alpha", "write", block * BLOCK, data=data))
        )

    def strike(self) -> None:
        lab, chance = self.lab, self.chance
        lab.alpha.handlers["fence-peer"] = HandlerEnds(
            chance.choice([4, 7, 5, 1, 0]), chance.randrange(1, 2_000_000_000)
        )
        what = chance.randrange(9)
        if what == 0:
            lab.network.cut()
        elif what == 1:
            lab.network.block(lab.beta, lab.alpha)
        elif what == 2:
            lab.network.block(lab.alpha, lab.beta)
        elif what == 3:
            lab.heal()
        elif what == 4 and lab.beta.alive:
            lab.beta.power_off()
        elif what == 5 and lab.beta.alive:
            lab.beta.kill()
        elif what == 6 and not lab.beta.alive:
            lab.boot("beta")
        elif what == 7:
            lab.ask("alpha", chance.choice(["suspend-io", "resume-io"]))
        elif what == 8:
            lab.ask("alpha", "disconnect", force=chance.random() < 0.5)

    def run(self) -> None:
        for _ in range(STEPS):
            for _ in range(self.chance.randrange(4)):
                self.write()
            self.lab.run_for(self.chance.choice([0.0002, 0.001, 0.01, 0.2, 1.0]))
            if self.chance.random() < 0.4:
                self.strike()

    def end(self) -> None:
        """Everything is mended; what was frozen goes on."""
        lab = self.lab
        lab.heal()
        if not lab.beta.alive:
            lab.boot("beta")
        for name in ("alpha", "beta"):
            if lab[name].connection is ConnState.STANDALONE:
                lab.command(name, "connect")
        lab.run_for(3)
        assert lab.command("alpha", "resume-io").exit_code == 0
        requests = [request for writes in self.written.values() for _, request in writes]
        lab.run_until(lambda: all(request.done for request in requests), what="every answer")
        lab.in_sync()

    def judge(self) -> None:
        lab = self.lab
        assert lab.differing_blocks() == []
        assert lab.state("alpha").disk is DiskState.UP_TO_DATE
        for block, writes in self.written.items():
            assert not any(request.errno for _, request in writes)
            if writes:
                assert lab.on_disk("beta", block * BLOCK, BLOCK) == writes[-1][0]


@pytest.mark.parametrize("durability", ["disk", "kernel"])
@pytest.mark.parametrize("seed", [*range(1, 16), 129, 240])
def test_nothing_acknowledged_is_lost_and_both_disks_are_equal(seed: int, durability: str) -> None:
    storm = Storm(seed, durability)
    storm.run()
    storm.end()
    storm.judge()
