"""A node of a kernel pair moves to replblk and back by the commands of docs/live-move.md."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.kernel.config import Options
from tests.interop.kernel.guest import Guest
from tests.interop.kernel.nodes import (
    IN_SYNC,
    ROOT,
    KernelNode,
    ReplblkNode,
    check,
    number,
    pattern,
    same_disks,
    wait,
    wait_both,
)
from tests.interop.kernel.pair import DISK_BYTES
from tests.interop.kernel.recorder import Recorder

MIB = 1 << 20
_COMMAND = re.compile(r"^    (alpha|beta)# (.+)$", re.MULTILINE)


class Site:
    """Two machines with kernels; beta's disk and address are replblk's while it has taken over."""

    def __init__(self, folder: Path, alpha: Guest, beta: Guest) -> None:
        self.alpha = KernelNode(alpha, "alpha")
        self.beta = KernelNode(beta, "beta")
        self.replblk = ReplblkNode(folder, DISK_BYTES, "beta")
        self.to_alpha = Recorder("beta", "alpha", alpha.drbd_port)
        self.to_beta = Recorder("alpha", "beta", beta.drbd_port)
        for node in (self.alpha, self.beta):
            node.begin(DISK_BYTES)
        self.alpha.configure("beta", self.to_beta.port, Options())
        self.beta.configure("alpha", self.to_alpha.port, Options())
        self.replblk.configure("alpha", self.to_alpha.port, Options())

    def run(self, host: str, command: str) -> str:
        """A command of the document."""
        program, *words = command.split()
        if host == "alpha" or program == "drbdadm":
            node = self.alpha if host == "alpha" else self.beta
            if (host, words[0]) == ("beta", "up"):
                self._carry(self.replblk.disk, self.beta.disk)
                self.beta.guest.check("blockdev --flushbufs /dev/vda")
                self.to_beta.target = self.beta.guest.drbd_port
            text = node.guest.check(command, 60)
            if (host, words[0]) == ("beta", "down"):
                self._carry(self.beta.disk, self.replblk.disk)
                self.to_beta.target = self.replblk.port
            return text
        if words[0] == "up":
            self.replblk.up()
            return ""
        arguments = [word for word in words if word != "r0"]
        return check(self.replblk, *arguments)

    @staticmethod
    def _carry(source: Path, sink: Path) -> None:
        """The one disk of beta: the machine's file and replblk's stand for it in turn."""
        with source.open("rb") as data, sink.open("r+b") as out:
            shutil.copyfileobj(data, out)

    def close(self) -> None:
        """The end."""
        self.replblk.close()
        for recorder in (self.to_alpha, self.to_beta):
            recorder.close()


@pytest.fixture
def site(lab: None, tmp_path: Path) -> Iterator[Site]:
    """A kernel pair, not yet up."""
    with Guest(tmp_path / "a", DISK_BYTES) as alpha, Guest(tmp_path / "b", DISK_BYTES) as beta:
        folder = Path(f"/tmp/rm-{tmp_path.parent.name[-8:]}")
        made = Site(folder, alpha, beta)
        yield made
        made.close()
        shutil.rmtree(folder)


def sections() -> dict[str, list[tuple[str, str]]]:
    """The commands of each section of the document."""
    text = (ROOT / "docs/live-move.md").read_text()
    return {part.partition("\n")[0].strip(): _COMMAND.findall(part) for part in text.split("\n## ")}


def test_the_document_moves_a_live_pair(site: Site) -> None:
    """A kernel pair; one node moves to replblk, becomes Primary, moves back; no full sync"""
    steps = sections()
    assert sum(len(commands) for commands in steps.values()) == 13
    alpha, beta, replblk = site.alpha, site.beta, site.replblk
    for node in (alpha, beta):
        check(node, "create-md", "--force")
        node.up()
    wait_both(alpha, beta, "cs:Connected ")
    check(alpha, "primary", "--force")
    wait_both(alpha, beta, IN_SYNC)
    alpha.write(0, pattern(1, MIB))

    def walk(title: str) -> str:
        return "\n".join(site.run(host, command) for host, command in steps[title])

    walk("Before")
    walk("1. The kernel lets go of the disk on beta")
    alpha.write(2 * MIB, pattern(2, 65536))
    sent = number(alpha, "ns")
    told = walk("2. replblk takes over")
    assert "cs:Connected" in told
    wait_both(alpha, replblk, IN_SYNC)
    assert 64 <= number(replblk, "nr") <= 64 + 16, replblk.log()
    assert number(alpha, "ns") - sent <= 64 + 16
    walk("3. The roles change")
    wait(replblk, "ro:Primary/Secondary")
    assert replblk.read(2 * MIB, 65536) == pattern(2, 65536)
    replblk.write(4 * MIB, pattern(3, 65536))
    steps["Back to the kernel"].insert(3, ("alpha", "true"))
    commands = iter(steps["Back to the kernel"])
    for host, command in commands:
        if command == "true":
            replblk.ended()
            alpha.write(6 * MIB, pattern(4, 65536))
            continue
        site.run(host, command)
    wait_both(alpha, beta, IN_SYNC)
    assert number(beta, "nr") <= 64 + 16
    same_disks(alpha, beta, alpha.size())
    for megabyte, tag in ((2, 2), (4, 3), (6, 4)):
        assert alpha.read(megabyte * MIB, 65536) == pattern(tag, 65536)
