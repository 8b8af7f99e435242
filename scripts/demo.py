"""Shows the main job on one machine: replicate, kill a node, fail over, return, compare.

    make demo                          # or: .venv/bin/python scripts/demo.py [FILE or DIRECTORY]

DEMO_FILE names the file or directory to replicate (default: the modules of this Python), DEMO_PORT
the TCP port (default: 7788). Exit status: 0 PASS, 1 FAIL, 2 could not begin, 130 interrupted.
Everything happens in one new temporary directory. At the end, whatever happened, nothing of it and
none of the processes started here is left.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from demo_kit import (
    ADDRESSES,
    CHUNK,
    KIB,
    MIB,
    WAIT_S,
    CanNotBeginError,
    DemoError,
    Node,
    Writer,
    check_port,
    clean_up,
    daemons,
    mib,
    pack,
    pieces,
    progress,
    same_data,
    say,
    step,
    wait_until,
    watch_resync,
)

from nbd.client import NbdError

PORT = 7788
TREE_MAX = 36 * MIB
"""How much of the default directory is taken: enough to watch, not enough to wait."""
WRITER_BYTES, BETA_BYTES = 4 * MIB, 2 * MIB
"""Where the writer that is interrupted writes, and what beta writes while it is alone."""
SLACK_BYTES = 160 * MIB
"""Room on the device beside the data, never written: it makes the difference visible."""
CONFIG = """\
resource r0 {{
  protocol C;
  disk {{ c-max-rate 1G; }}
  net  {{ connect-int 1; ping-int 1; ping-timeout 10; }}
  on alpha {{
    device /dev/drbd0;  disk {folder}/alpha.img;
    address 127.0.0.1:{port};  meta-disk internal;
  }}
  on beta {{
    device /dev/drbd0;  disk {folder}/beta.img;
    address 127.0.0.2:{port};  meta-disk internal;
  }}
}}
"""


class Demo:
    """The steps in order; ``checks`` is what the verdict is made of."""

    def __init__(self, folder: Path, source: Path, most: int, port: int) -> None:
        self.folder = folder
        self.source, self.most, self.port = source, most, port
        self.data = folder / "data"
        self.alpha, self.beta = Node("alpha", folder), Node("beta", folder)
        self.checks: list[tuple[str, bool]] = []
        self.packed = ""
        self.writer_at = 0

    def run(self) -> bool:
        """Everything; whether all checks hold."""
        self.prepare()
        self.start()
        self.full_sync()
        self.write()
        writer = self.kill()
        self.take_over(writer)
        self.come_back()
        self.compare()
        return all(good for _, good in self.checks)

    def check(self, what: str, good: bool) -> None:
        """Note one part of the verdict."""
        self.checks.append((what, good))
        say(f"{'ok' if good else 'WRONG'}: {what}")

    def prepare(self) -> None:
        """The configuration and two empty disks."""
        step("Two nodes on this machine, each with a disk of its own")
        self.packed = pack(self.source, self.data, self.most)
        self.writer_at = -(-self.data.stat().st_size // MIB) * MIB
        size = self.writer_at + WRITER_BYTES + BETA_BYTES + SLACK_BYTES
        if shutil.disk_usage(self.folder).free < 2 * size + SLACK_BYTES:
            raise CanNotBeginError(
                f"{self.folder.parent} has too little room: {mib(2 * size + SLACK_BYTES)} are "
                "needed; set TMPDIR to another directory, or name a smaller DEMO_FILE"
            )
        config = CONFIG.format(folder=self.folder, port=self.port)
        (self.folder / "drbd.conf").write_text(config)
        for node in (self.alpha, self.beta):
            with node.disk.open("wb") as disk:
                disk.truncate(size)
            say(f"{node.name:5}  {ADDRESSES[node.name]}:{self.port}  {node.disk}  {mib(size)}")
        say()
        say("Lines that begin with alpha$ or beta$ are what an administrator types there. The")
        say("environment says who is who: REPLBLK_NODE, REPLBLK_RUN_DIR and REPLBLK_CONFIG.")
        say("The configuration is the same for both, in DRBD's own language:")
        say()
        for line in config.splitlines():
            say(f"  {line}")

    def start(self) -> None:
        """Metadata and daemons."""
        step("Prepare the disks and start both nodes")
        for node in (self.alpha, self.beta):
            node.run("create-md", "r0")
        for node in (self.alpha, self.beta):
            node.run("up", "r0")
        self.alpha.run("wait-connect", "r0")
        self.alpha.run("dstate", "r0")
        say("Connected. Neither disk is known to hold good data yet.")

    def full_sync(self) -> None:
        """alpha's disk is declared good and copied whole."""
        step("Declare alpha's disk good; all of it is copied to beta")
        self.alpha.run("primary", "--force", "r0")
        watch_resync("full sync", self.alpha, self.beta)

    def write(self) -> None:
        """Real data through the device."""
        step("Write real data to alpha's device, over NBD")
        size = self.data.stat().st_size
        say(f"{self.packed}: {mib(size)}")
        began = time.monotonic()
        with self.alpha.device() as device, progress("writing") as report:

            def followed() -> Iterator[tuple[int, bytes]]:
                for offset, data in pieces(self.data):
                    yield offset, data
                    report((offset + len(data)) / size, mib(offset + len(data)))

            device.write_many(followed(), depth=8)
            device.flush()
            device.disc()
        took = time.monotonic() - began
        say(f"{mib(size / took)}/s; each write was on both disks before it was acknowledged.")
        say()
        say("Both nodes, as /proc/drbd would show them:")
        for node in (self.alpha, self.beta):
            node.run("proc")

    def kill(self) -> Writer:
        """alpha's daemon dies while it has work to do."""
        step("Kill alpha while a program is writing")
        writer = Writer(self.alpha.device(), self.writer_at, WRITER_BYTES)
        writer.start()
        wait_until(
            "500 writes are acknowledged",
            lambda: writer.count >= 500 or not writer.is_alive(),
            pause_s=0.02,
        )
        process = self.alpha.process()
        say(f"alpha$ kill -9 {process}")
        os.kill(process, signal.SIGKILL)
        writer.join(WAIT_S)
        say(f"{writer.count:,} writes were acknowledged, {len(writer.in_flight)} were in flight.")
        say(f'The program was told "{writer.why}".')
        return writer

    def take_over(self, writer: Writer) -> None:
        """beta serves what alpha served."""
        step("beta takes over")
        wait_until(
            "beta notices that alpha is gone",
            lambda: self.beta.run("cstate", "r0", show=False) != "Connected",
        )
        self.beta.run("cstate", "r0")
        self.beta.run("dstate", "r0")
        self.beta.run("primary", "r0")
        with self.beta.device() as device:
            with progress("reading back") as report:
                same = same_data(device, self.data, report)
            self.check(f"beta has the data, bit for bit ({mib(self.data.stat().st_size)})", same)
            lost = writer.lost(device)
            said = f"{lost} blocks are lost" if lost else f"{writer.count:,}"
            self.check(f"beta has every acknowledged write of that program ({said})", not lost)
            own = self.writer_at + WRITER_BYTES
            device.write_many(
                ((own + at, b"beta" * (CHUNK // 4)) for at in range(0, BETA_BYTES, CHUNK)), depth=8
            )
            device.flush()
            device.disc()
        say(f"beta goes on alone: {mib(BETA_BYTES)} are written that alpha does not have.")

    def come_back(self) -> None:
        """alpha fetches what it lacks."""
        step("alpha returns, and fetches only what it may lack")
        self.alpha.run("up", "r0")
        watch_resync("resync", self.beta, self.alpha)
        device, link = self.alpha.status()
        fetched, whole = link["received"], device["size"]
        share = 100 * fetched / whole
        say(f"{fetched:,} KiB resynced of {whole:,} KiB ({share:.0f} %): what beta wrote alone,")
        say("and the 4 MiB extents that alpha's activity log names as written lately.")
        self.check("only a part was resynced", 0 < fetched < whole)
        for node in (self.alpha, self.beta):
            node.run("proc")
        healthy = self.alpha.healthy() and self.beta.healthy()
        self.check("both nodes are UpToDate/UpToDate, oos:0", healthy)

    def compare(self) -> None:
        """Take both down and look at their disks."""
        step("Stop both nodes and compare their disks")
        size = self.alpha.status()[0]["size"] * KIB
        self.beta.run("secondary", "r0")
        self.alpha.run("down", "r0")
        self.beta.run("down", "r0")
        wait_until("both daemons have ended", lambda: not daemons(self.folder), pause_s=0.05)
        same = True
        with self.alpha.disk.open("rb") as one, self.beta.disk.open("rb") as other:
            for at in range(0, size, MIB):
                count = min(MIB, size - at)
                same = same and one.read(count) == other.read(count)
        self.check(f"the disks are identical, byte for byte ({mib(size)} of data)", same)
        with self.alpha.disk.open("rb") as disk:
            same = all(disk.read(len(data)) == data for _, data in pieces(self.data))
        self.check("alpha's disk holds the data that was written first", same)

    def logs(self) -> str:
        """The ends of the daemons' logs, for a failure."""
        text = ""
        for node in (self.alpha, self.beta):
            log = node.run_dir / "r0" / "log"
            if log.exists():
                lines = log.read_text(errors="replace").splitlines()[-15:]
                text += "\n".join([f"\n   the end of {node.name}'s log:", *lines])
        return text


def interrupted(number: int, _frame: object) -> None:
    """End as Ctrl-C does: everything is cleaned up on the way out."""
    raise KeyboardInterrupt(signal.Signals(number).name)


def main() -> int:
    """Run the demonstration; the exit status."""
    chosen = sys.argv[1] if sys.argv[1:] else os.environ.get("DEMO_FILE", "")
    source = Path(chosen or sysconfig.get_paths()["stdlib"]).expanduser().absolute()
    port = os.environ.get("DEMO_PORT") or str(PORT)
    signal.signal(signal.SIGTERM, interrupted)
    folder = Path(tempfile.mkdtemp(prefix="replblk-"))
    demo: Demo | None = None
    began = time.monotonic()
    try:
        if not port.isdigit() or not 0 < int(port) < 65536:
            raise CanNotBeginError(f"DEMO_PORT must be a number from 1 to 65535, not {port!r}")
        check_port(int(port))
        demo = Demo(folder, source, sys.maxsize if chosen else TREE_MAX, int(port))
        good = demo.run()
        took = time.monotonic() - began
        print(f"\n{'PASS' if good else 'FAIL'}: {summary(demo, good)} ({took:.0f} s)")
        return 0 if good else 1
    except CanNotBeginError as error:
        print(f"The demonstration can't begin: {error}", file=sys.stderr)
        return 2
    except (DemoError, NbdError, OSError, subprocess.TimeoutExpired) as error:
        print(f"{demo.logs() if demo else ''}\n\nFAIL: {error}")
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; stopping what was started")
        return 130
    finally:
        clean_up(folder)


def summary(demo: Demo, good: bool) -> str:
    """The verdict in a sentence."""
    if good:
        return "the data survived the node, and both disks are the same again"
    return "; ".join(what for what, held in demo.checks if not held)


if __name__ == "__main__":
    sys.exit(main())
