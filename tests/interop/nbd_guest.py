"""A guest with the kernel's NBD devices that runs this very Python, from the host's file system.

The host's root is mounted read-only at /host, so ``python`` there is the interpreter that runs the
tests, with the project as it is. Servers on the host's 127.0.0.1 are 10.0.2.2 in the guest.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

from tests.interop.kernel.guest import Guest

PROJECT = Path(__file__).parents[2]
MOUNT = "mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=262144,cache=loose"
SETUP = f"""
modprobe -a 9p 9pnet_virtio crc32c_generic ext4
mkdir -p /host /share
{MOUNT} share /share; {MOUNT} host /host
insmod /share/usr/lib/modules/$(uname -r)/kernel/drivers/block/nbd.ko
for folder in proc sys dev run; do mount --rbind /$folder /host/$folder; done
"""
COMMANDS = "/run/commands.sock"
_STATUS = re.compile(r"\n*:status:(\d+)\n*$")
LOADED_S = 180.0
"""How long Python and its libraries may take to load on an emulated CPU."""


class NbdGuest(Guest):
    """``boot`` makes it ready. ``console`` begins with the last ``mark``: tests share a machine."""

    _marked = 0

    def mark(self) -> None:
        """What the kernel said so far belongs to others."""
        self._marked = len(super().console())

    def console(self) -> str:
        return super().console()[self._marked :]

    def _command(self, cache: Path) -> list[str]:
        words = super()._command(cache)
        words[words.index("-m") + 1] = "512"
        # On a busy host an emulated timer may be late, which the kernel takes for a broken one.
        words[words.index("-append") + 1] += " no_timer_check"
        share = "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"
        return [*words, "-virtfs", share]

    def boot(self) -> None:
        super().boot()
        self.check(SETUP)

    def attach(self, uri: str, identifier: str, *options: str) -> None:
        """Start ``python -m nbd.attach``; it is there when this returns."""
        words = [sys.executable, "-m", "nbd.attach", uri, "--identifier", identifier, *options]
        inside = f"cd {PROJECT}; export PYTHONDONTWRITEBYTECODE=1; exec {shlex.join(words)}"
        self.check(
            f"chroot /host /bin/sh -c {shlex.quote(inside)} > /run/attach.out 2>&1 & "
            "echo $! > /run/attach.pid"
        )
        self.check(
            f"for i in $(seq {int(LOADED_S * 5)}); do grep -q ^/dev/nbd /run/attach.out && exit 0; "
            "kill -0 $(cat /run/attach.pid) || break; sleep 0.2; done; cat /run/attach.out; exit 1",
            LOADED_S * 2,
        )

    # -- commands that are loaded once ----------------------------------------------------------

    def load_commands(self) -> None:
        """Make ``command`` ready, once: see guest_commands."""
        if self.sh(f"[ -S {COMMANDS} ]")[0] == 0:
            return
        words = [sys.executable, "-m", "tests.interop.guest_commands", COMMANDS]
        inside = f"cd {PROJECT}; export PYTHONDONTWRITEBYTECODE=1; exec {shlex.join(words)}"
        self.check(f"chroot /host /bin/sh -c {shlex.quote(inside)} > /run/commands.out 2>&1 &")
        self.check(
            f"for i in $(seq {int(LOADED_S * 5)}); do [ -S {COMMANDS} ] && exit 0; sleep 0.2; "
            "done; cat /run/commands.out; exit 1",
            LOADED_S * 2,
        )

    def command(
        self, program: str, *words: str, log: str = "", limit_s: float = 120
    ) -> tuple[int, str]:
        """Run "replblk" or "nbd.attach": (exit status, output); with a log, in the background:
        (0, process number)."""
        told = json.dumps({"program": program, "words": words, "log": log})
        text = self.check(
            f"printf %s {shlex.quote(told)} | socat -t {limit_s:g} - UNIX-CONNECT:{COMMANDS}",
            limit_s,
        )
        ending = _STATUS.search(text)
        assert ending is not None, f"{program} {words} was cut short: {text}"
        return int(ending[1]), text[: ending.start()]
