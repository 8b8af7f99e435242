"""The helper of a block device is told when the volume gets another size."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from replblk.admin.resolve import load
from replblk.model.config import Settings
from replblk.shell.block_devices import BlockDevice
from replblk.shell.run_files import RunFiles
from tests.support.site import Site


def test_the_helper_is_asked_by_a_signal_that_hurts_nobody(tmp_path: Path) -> None:
    site = Site(tmp_path, 17721)
    resource = load(str(site.config), node="alpha").find("r0")
    files = RunFiles.of(tmp_path / "alpha", "r0")
    files.make()
    device = BlockDevice(resource, 0, files, Settings())
    device.ask_size()  # there is none
    script = (
        "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH}); "
        "print('there', flush=True); print(signal.sigwait({signal.SIGWINCH}).name)"
    )
    words = [sys.executable, "-c", script]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as helper:
        assert helper.stdout is not None
        assert helper.stdout.readline() == "there\n"
        files.folder.joinpath("nbd-0.pid").write_text(f"{helper.pid}\n")
        device.ask_size()
        assert helper.communicate(timeout=20)[0] == "SIGWINCH\n"
    files.folder.joinpath("nbd-0.pid").write_text(f"{os.getpid()}\n")
    assert signal.getsignal(signal.SIGWINCH) is signal.SIG_DFL
    device.ask_size()  # a number that belongs to somebody else by now
