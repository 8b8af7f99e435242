"""The documents stay true: the README's commands are run, its links lead somewhere, nothing is
missing from the list of commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from replblk.cli.main import app
from tests.interop.test_demo import free_port, processes_of

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
TIMEOUT_S = 120
MARK = "----- next command -----"


@dataclass(frozen=True)
class Step:
    """A command of the README, and what it says it prints."""

    command: str
    output: str


def steps() -> Iterator[Step]:
    """Everything after ``$ `` and ``> `` in the console blocks is typed, the rest is printed."""
    for block in re.findall(
        r"^```console\n(.*?)^```", (ROOT / "README.md").read_text(), re.S | re.M
    ):
        command: list[str] = []
        output: list[str] = []
        for line in block.splitlines():
            if line.startswith("$ "):
                if command:
                    yield Step("\n".join(command), "\n".join(output))
                command, output = [line[2:]], []
            elif line.startswith("> "):
                command.append(line[2:])
            else:
                output.append(line)
        yield Step("\n".join(command), "\n".join(output))


def pattern(output: str) -> str:
    """What may be printed instead: other numbers."""
    return re.sub(r"\d+", r"\\d+", re.escape(output.strip()))


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short path; no process that names it is left."""
    folder = Path(f"/tmp/readme-{os.getpid()}")
    yield folder
    give_up = time.monotonic() + 10
    while (left := processes_of(folder)) and time.monotonic() < give_up:
        time.sleep(0.05)  # "down" answers a moment before its process is gone
    for process in left:
        os.kill(int(process.partition(":")[0]), 9)
    subprocess.run(["rm", "-rf", folder], check=True)
    assert not left, f"still running: {left}"


def test_two_nodes_by_hand_work_as_the_readme_says(place: Path) -> None:
    """Typed into one shell, each command prints what stands there, but for the numbers."""
    typed = list(steps())
    assert len(typed) > 15, "the README has lost its commands"
    script = "\n".join(
        f"{step.command}\necho '{MARK}' $?\ntype alpha >/dev/null 2>&1 && set -e" for step in typed
    )
    for old, new in (
        (":7788", f":{free_port()}"),
        ("/tmp/pair", str(place)),
        ("$PWD/.venv/bin", str(BIN)),
    ):
        assert old in script, f"the README no longer says {old}"
        script = script.replace(old, new)
    done = subprocess.run(
        ["bash", "-c", f"exec 2>&1\n{script}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env={key: value for key, value in os.environ.items() if not key.startswith("REPLBLK_")},
    )
    printed = re.split(rf"^{MARK} \d+\n", done.stdout, flags=re.M)
    story = f"status {done.returncode}:\n{done.stdout}"
    for step, text in zip(typed, printed, strict=False):
        assert re.fullmatch(pattern(step.output), text.strip()), (
            f"$ {step.command}\nprints\n{text}\ninstead of\n{step.output}\n\nall of it, {story}"
        )
    assert done.returncode == 0, story
    assert len(printed) == len(typed) + 1, story


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    """Links inside the project only; the world outside is not ours to check."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target or target.startswith("#"):
            continue
        assert (path.parent / target.partition("#")[0]).exists(), f"{path.name} links to {target}"


def test_every_command_and_option_is_documented() -> None:
    """docs/commands.md is the contract: what is not there can't be relied on."""
    text = (ROOT / "docs" / "commands.md").read_text()
    missing = []
    for name, command in sorted(app.commands.items()):
        if not re.search(rf"`{re.escape(name)}[ `]", text):
            missing.append(name)
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                missing += [
                    f"{name} {option}"
                    for option in (*parameter.opts, *parameter.secondary_opts)
                    if option.startswith("--") and option not in text
                ]
    for parameter in app.params:
        missing += [option for option in parameter.opts if option not in text]
    assert not missing, f"docs/commands.md does not tell of: {', '.join(missing)}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_documents_name_exist(path: Path) -> None:
    """A path in backquotes that begins in one of our folders is a promise."""
    named = re.findall(r"`((?:replblk|nbd|tests|scripts|docs)/[\w/.-]*)`", path.read_text())
    gone = [name for name in named if not (ROOT / name).exists()]
    assert not gone, f"{path.name} names what is not there: {', '.join(gone)}"


def test_make_help_lists_every_target() -> None:
    """The list is read from the Makefile's own comments."""
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY:(.*)$", text, re.M)
    assert phony
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    listed = set(re.findall(r"^  make ([\w-]+)", shown, re.M))
    assert listed == set(phony[1].split())
