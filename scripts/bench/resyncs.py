"""A full resync beside nbdcopy, and beside an application that writes meanwhile."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from scripts.bench.contenders import QemuNbd, ReplblkPair, free_port
from scripts.bench.load import Figures, cpu_s
from scripts.bench.results import Results, Setting, Work

NBDCOPY = "nbdcopy to qemu-nbd"
FULL = "full resync, warm source (MiB)"
RAMP_S = 1.0
WRITES = ("randwrite", "4k", 8)


def full_resync(results: Results, setting: Setting) -> None:
    """The whole device: by a resync, and by nbdcopy over TCP to an export of qemu-nbd whose every
    write is flushed before it is answered. Both sources lie in the page cache; a rate is MiB/s."""
    mib = setting.size >> 20
    with contextlib.ExitStack() as stack:
        folder = setting.disk / "resync"
        pair = ReplblkPair(folder / "pair", setting.size)
        stack.callback(pair.close)
        single = QemuNbd(folder / "target", setting.size, port=free_port())
        stack.callback(single.close)
        results.prove("qemu-nbd over TCP", single)
        source = pair.image("alpha")
        for _ in range(setting.rounds):
            _warm(source)
            processes = pair.processes()
            before, began = cpu_s(processes), time.monotonic()
            pair.ask("beta", "invalidate")
            pair.ask("beta", "wait-sync")
            took, used = time.monotonic() - began, cpu_s(processes) - before
            results.note(FULL, pair.name, Figures(mib / took, cpu_us=used / mib * 1e6))
            before, began = cpu_s(single.processes()), time.monotonic()
            subprocess.run(["nbdcopy", "--flush", str(source), single.uri], check=True)
            took, used = time.monotonic() - began, cpu_s(single.processes()) - before
            results.note(FULL, NBDCOPY, Figures(mib / took, cpu_us=used / mib * 1e6))
    results.row(FULL, NBDCOPY, 1.5, 2.4, unit="MiB/s")


def _warm(path: Path) -> None:
    with path.open("rb") as file:
        while file.read(1 << 20):
            pass


def beside_application(results: Results, setting: Setting) -> None:
    """Writes of an application at depth 8, alone and while a resync runs, in turns."""
    with contextlib.ExitStack() as stack:
        folder = setting.disk / "beside"
        pairs = {}
        for how in ("fair", "gentle"):
            pairs[how] = ReplblkPair(folder / how, setting.size, settings=f'resync = "{how}"\n')
            stack.callback(pairs[how].close)
        for _ in range(setting.rounds):
            for how, pair in pairs.items():
                alone = Work(f"4 KiB random write, QD 8, no resync ({how})", *WRITES)
                beside = Work(f"4 KiB random write, QD 8, beside a resync ({how})", *WRITES)
                # A resync that is alone goes at full speed: what the disk still has of that when
                # the application begins is not what the resync costs it.
                part = setting.size // 2
                results.measure(setting, alone, pair, part=part, ramp_s=RAMP_S)
                with _resyncing(pair):
                    results.measure(setting, beside, pair, part=part, ramp_s=RAMP_S)
    for how, must, aim in (("fair", 0.5, 0.6), ("gentle", 0.9, 0.95)):
        name = f"4 KiB random write, QD 8, beside a resync ({how})"
        than = f"4 KiB random write, QD 8, no resync ({how})"
        results.row(name, "the same without one", must, aim, than=than)


@contextlib.contextmanager
def _resyncing(pair: ReplblkPair) -> Iterator[None]:
    """A full resync runs from before until after, again and again where it ends too soon."""
    over = threading.Event()

    def again() -> None:
        while not over.is_set():
            pair.ask("beta", "invalidate")
            while not over.wait(0.1):
                status = pair.ask("beta", "status").status
                if status is not None and not status.volumes[0].out_of_sync_kib:
                    break

    worker = threading.Thread(target=again)
    worker.start()
    try:
        time.sleep(0.3)
        yield
    finally:
        over.set()
        worker.join()
        pair.ask("beta", "wait-sync")
