"""Many requests given to a node as one list: as if they had come one by one, only sooner done."""

from __future__ import annotations

import random

import pytest

from replblk.engine.ports import ClientRequest
from replblk.model.vocabulary import ConnState, DiskState
from tests.support.lab import BLOCK, EXTENT, Lab

DEVICE = 24 << 20


def ready(**options: object) -> Lab:
    lab = Lab(device_bytes=DEVICE, **options)  # type: ignore[arg-type]
    lab.up()
    lab.primary("alpha")
    return lab


def give(lab: Lab, requests: list[ClientRequest]) -> dict[int, int]:
    """Give alpha all of them at once; what comes of them is put into what is returned."""
    machine = lab["alpha"]
    answers: dict[int, int] = {}
    for request in requests:

        def answered(errno: int, _data: object, number: int = request.number) -> None:
            assert number not in answers
            answers[number] = errno

        machine._replies[request.number] = answered
    life = machine.life
    assert life is not None
    machine.deliver(life, "on_client_requests", requests)
    return answers


def mixed(chance: random.Random, count: int, model: bytearray) -> list[ClientRequest]:
    """Overlapping writes of all sizes over few and many extents, zeroes and flushes between."""
    requests: list[ClientRequest] = []
    for number in range(1, count + 1):
        kind = chance.choices(("write", "zero", "flush"), (12, 1, 1))[0]
        blocks = chance.choice((1, 1, 1, 2, 8, 300))
        at = chance.choice((chance.randrange(20), chance.randrange(5 * EXTENT // BLOCK - 300)))
        offset, length = at * BLOCK, blocks * BLOCK if kind == "write" else BLOCK
        length = min(length, 1 << 20)
        if kind == "flush":
            requests.append(ClientRequest(1000 + number, 0, "flush"))
            continue
        data = bytes([number % 255 + 1]) * length if kind == "write" else bytes(length)
        model[offset : offset + length] = data
        requests.append(
            ClientRequest(
                1000 + number,
                0,
                kind,
                offset,
                length,
                data if kind == "write" else b"",
                chance.random() < 0.2,
            )
        )
    return requests


@pytest.mark.parametrize("seed", range(12))
def test_a_list_of_requests_has_the_effect_of_one_after_the_other(seed: int) -> None:
    """The simulated disks refuse overlapping writes in flight, so order is what is left to see."""
    chance = random.Random(seed)
    model = bytearray(6 * EXTENT)
    lab = ready()
    for start in (0, 500):
        requests = mixed(chance, 60, model)
        for request in requests:
            request.number += start
        answers = give(lab, requests)
        lab.run_until(lambda a=answers: len(a) == 60)  # type: ignore[misc]
        assert set(answers.values()) == {0}
    lab.run_for(0.2)
    assert lab.differing_blocks() == []
    for name in ("alpha", "beta"):
        assert lab.on_disk(name, 0, 5 * EXTENT) == bytes(model[: 5 * EXTENT])


def test_no_data_of_a_run_are_submitted_before_the_log_names_their_extent() -> None:
    lab = ready()
    lab.write("alpha", 0, bytes(BLOCK))
    data = b"x" * BLOCK
    hot = [ClientRequest(number, 0, "write", number * BLOCK, BLOCK, data) for number in (101, 102)]
    cold = ClientRequest(103, 0, "write", 3 * EXTENT, BLOCK, data)
    later = ClientRequest(104, 0, "write", 104 * BLOCK, BLOCK, data)
    wrong: list[str] = []

    def submitted(zone: str, kind: str) -> None:
        disk = lab.drive("alpha").holder
        assert disk is not None
        for offset, _data, _length in disk.in_flight_writes():
            extent = offset // EXTENT
            if (
                zone == "data"
                and offset < 5 * EXTENT
                and extent not in lab.durable_extents("alpha")
            ):
                wrong.append(f"extent {extent} at a {kind}")

    lab.drive("alpha").on_submit = submitted
    answers = give(lab, [*hot, cold, later])
    lab.run_until(lambda: len(answers) == 4)
    assert not wrong
    assert set(answers.values()) == {0}


@pytest.mark.parametrize("held", ["alpha", "beta"])
def test_a_run_is_answered_only_when_both_disks_have_it_durably(held: str) -> None:
    lab = ready()
    lab.write("alpha", 0, bytes(BLOCK))
    lab.hold(held)
    data = b"y" * BLOCK
    answers = give(
        lab, [ClientRequest(n, 0, "write", n * BLOCK, BLOCK, data) for n in range(100, 140)]
    )
    lab.run_for(0.9)
    assert not answers
    lab.run_until(lambda: len(answers) == 40)
    for name in ("alpha", "beta"):
        store = lab.drive(name).store
        assert store.read_durable(100 * BLOCK, 40 * BLOCK) == data * 40


def test_a_run_whose_peer_is_lost_is_marked_before_it_is_answered() -> None:
    lab = ready()
    lab.write("alpha", 0, bytes(BLOCK))
    lab.hold("beta")
    data = b"z" * BLOCK
    answers = give(
        lab, [ClientRequest(n, 0, "write", n * BLOCK, BLOCK, data) for n in range(100, 140)]
    )
    lab.run_for(0.01)
    lab["beta"].kill()
    lab.run_until(lambda: lab.state("alpha").conn < ConnState.CONNECTED)
    lab.run_until(lambda: len(answers) == 40)
    assert set(answers.values()) == {0}
    assert lab.out_of_sync_kib("alpha") >= 160


def run_of(first: int, count: int, *, fua: bool = False) -> list[ClientRequest]:
    data = b"r" * BLOCK
    blocks = range(first, first + count)
    return [ClientRequest(n, 0, "write", n * BLOCK, BLOCK, data, fua) for n in blocks]


def test_the_disk_fails_under_a_run_and_only_the_peers_copy_counts() -> None:
    lab = ready()
    lab.write("alpha", 0, bytes(BLOCK))
    lab.fail("alpha", "data", "write")
    answers = give(lab, run_of(100, 10))
    lab.run_until(lambda: len(answers) == 10)
    assert set(answers.values()) == {0}
    assert lab.state("alpha").disk < DiskState.INCONSISTENT
    assert lab.on_disk("beta", 100 * BLOCK, 10 * BLOCK) == b"r" * (10 * BLOCK)


def test_a_run_that_asks_to_be_durable_is_so_on_both_disks() -> None:
    lab = ready(settings={"durability": "kernel"})
    lab.write("alpha", 0, bytes(BLOCK))
    answers = give(lab, run_of(100, 10, fua=True))
    lab.run_until(lambda: len(answers) == 10)
    for name in ("alpha", "beta"):
        store = lab.drive(name).store
        assert store.read_durable(100 * BLOCK, 10 * BLOCK) == b"r" * (10 * BLOCK), name
