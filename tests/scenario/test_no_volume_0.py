"""A resource numbers its volumes as it likes: packets of the connection name none of them."""

from __future__ import annotations

from dataclasses import replace

from replblk.model.vocabulary import ConnState, DiskState
from tests.support.lab import BLOCK, Lab

DATA = b"data" * 1024


def test_a_resource_without_volume_0_replicates_flushes_and_resyncs() -> None:
    lab = Lab(volumes=3)
    for machine in (lab.alpha, lab.beta):
        hosts = machine.resource
        local, peer = (replace(h, volumes=h.volumes[1:]) for h in (hosts.local, hosts.peer))
        machine.resource = replace(hosts, local=local, peer=peer)
        del machine.drives[0]
    for name in ("alpha", "beta"):
        lab[name].boot()
        lab.ask(name, "up")
    lab.run_until(lambda: all(m.connection is ConnState.CONNECTED for m in (lab.alpha, lab.beta)))
    lab.command("alpha", "primary", force=False)
    for volume in (1, 2):
        lab.write("alpha", 0, DATA, volume=volume)
        lab.flush("alpha", volume=volume)
    lab.run_for(3)  # pings
    lab.cut()
    lab.write("alpha", BLOCK, DATA, volume=2)
    lab.run_until(
        lambda: all(
            lab[name].all_volumes(
                conn=ConnState.CONNECTED, disk=DiskState.UP_TO_DATE, pdsk=DiskState.UP_TO_DATE
            )
            for name in ("alpha", "beta")
        )
    )
    assert lab.on_disk("beta", 0, BLOCK, volume=1) == DATA
    assert lab.on_disk("beta", 0, 2 * BLOCK, volume=2) == 2 * DATA
