"""The house keeps its floors: who may import whom, what lives in one place, what must not be left.

The picture is in docs/architecture.md. The whole source is parsed, nothing of it is run.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("replblk", "nbd")
FLOORS = {
    "replblk": 0,  # the package itself: its version
    "replblk.model": 1,
    "replblk.wire": 2,
    "replblk.meta": 2,
    "replblk.rules": 2,
    "replblk.admin": 2,
    "replblk.engine": 3,
    "replblk.shell": 4,
    "replblk.sim": 4,
    "replblk.cli": 5,
}
WORLD_FLOOR = 4
"""From here on there are clocks, sockets, files and chance; and NBD."""
ENGINE_MAY_USE = {
    "replblk.engine",
    "replblk.model",
    "replblk.wire",
    "replblk.meta",
    "replblk.rules",
}
WORLD_MODULES = frozenset(
    """
    asyncio concurrent contextvars datetime fcntl ftplib getpass glob http io logging mmap
    multiprocessing os pathlib queue random resource sched secrets select selectors shutil signal
    socket socketserver ssl subprocess sys tempfile threading time urllib uuid uvloop
    """.split()
)
"""What reaches outside, or tells the time, or throws dice."""
WORLD_MODULES_OF = {"replblk.admin": {"pathlib", "glob"}}
"""Configuration files include others by pattern."""
ONE_PLACE = {
    "uvloop": ("replblk/shell/daemon.py", "nbd/loops.py"),
    "construct": ("replblk/wire/", "replblk/meta/", "nbd/"),
    "crcmod": ("replblk/meta/al_transaction.py",),
    "google_crc32c": ("replblk/wire/auth.py",),
    "prometheus_client": ("replblk/shell/metrics",),
    "bitarray": ("replblk/meta/", "replblk/wire/bitmap_code.py", "replblk/engine/resync_bitmap.py"),
    "click": ("replblk/cli/",),
    "pyroute2": ("nbd/netlink.py",),
}
ENTRY_POINTS = {
    "replblk.cli.main",  # pyproject.toml: the command replblk
    "replblk.cli.__main__",  # how a daemon is started in the background
    "replblk.sim.__main__",
    "replblk.admin.options_page",  # make docs
    "nbd.__main__",
    "nbd.attach",  # how replblk/shell/block_devices.py starts it
    "nbd.relay",  # the same
    "nbd.dial",  # for users of the package: what an NBD URI names
}
LINES_MAX = 500
UNFINISHED = ("FIX" + "ME", "TO" + "DO", "XX" + "X", "NotImplemented" + "Error")
FOREIGN_TO_THE_PROJECT = (
    "pypi." + "org",
    "python" + "hosted",
    "npmjs." + "org",
    "crates." + "io",
    "index" + "-url",
    "/work/" + "shared",
    "../" + "shared",
)
TEXTS = (".py", ".md", ".toml", ".conf", ".res", ".yml", ".json", ".sh")


@dataclass(frozen=True)
class Import:
    """One name that a module imports. at_load: executed when the module is imported."""

    module: str
    line: int
    at_load: bool
    for_types: bool


@dataclass(frozen=True)
class Module:
    """One source file."""

    name: str
    path: Path
    imports: tuple[Import, ...]

    @property
    def room(self) -> str:
        """The package it belongs to: replblk.wire, nbd, ..."""
        parts = self.name.split(".")
        return ".".join(parts[:2]) if parts[0] == "replblk" and len(parts) > 1 else parts[0]

    def at(self, found: Import) -> str:
        """The place of an import, for messages."""
        return f"{self.path.relative_to(ROOT)}:{found.line}"


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def dotted(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


@cache
def names() -> frozenset[str]:
    return frozenset(dotted(path) for path in sources(*PACKAGES))


@cache
def modules() -> tuple[Module, ...]:
    return tuple(
        Module(dotted(path), path, tuple(imports_of(ast.parse(text_of(path)))))
        for path in sources(*PACKAGES)
    )


def imports_of(tree: ast.Module) -> Iterator[Import]:
    """Every import of a parsed file, also those inside functions and for types only."""

    def walk(node: ast.AST, at_load: bool, for_types: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, child.lineno, at_load, for_types)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"line {child.lineno}: relative import"
                assert child.module is not None
                for alias in child.names:
                    inner = f"{child.module}.{alias.name}"
                    name = inner if inner in names() else child.module
                    yield Import(name, child.lineno, at_load, for_types)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                yield from walk(child, at_load, True)
            else:
                inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(child, at_load and not inside, for_types)

    yield from walk(tree, True, False)


def room_of(name: str) -> str:
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "replblk" and len(parts) > 1 else parts[0]


def test_every_room_has_a_floor() -> None:
    """A new folder needs a place in the picture before it can be used."""
    unknown = {module.room for module in modules() if module.room.startswith("replblk")} - set(
        FLOORS
    )
    assert not unknown, f"give these a floor in FLOORS and in docs/architecture.md: {unknown}"


def test_a_file_imports_from_lower_floors_only() -> None:
    """Rooms on one floor do not know each other: wire, meta, rules, admin; shell and sim."""
    wrong = []
    for module in modules():
        if module.room == "nbd":
            continue
        for found in module.imports:
            room = room_of(found.module)
            if room not in FLOORS or room == module.room:
                continue
            if FLOORS[room] >= FLOORS[module.room]:
                wrong.append(f"{module.at(found)} imports {found.module}")
    assert not wrong, "imports from the same or a higher floor:\n" + "\n".join(wrong)


def test_the_engine_uses_words_packets_metadata_and_rules_only() -> None:
    """Configuration files and status texts are none of its business."""
    wrong = [
        f"{module.at(found)} imports {found.module}"
        for module in modules()
        if module.room == "replblk.engine"
        for found in module.imports
        if found.module.startswith(PACKAGES) and room_of(found.module) not in ENGINE_MAY_USE
    ]
    assert not wrong, "\n".join(wrong)


def test_nbd_knows_no_replblk() -> None:
    """It is a package of its own that others could use."""
    wrong = [
        f"{module.at(found)} imports {found.module}"
        for module in modules()
        if module.room == "nbd"
        for found in module.imports
        if found.module.split(".")[0] == "replblk"
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_below_the_shell_reaches_outside() -> None:
    """Bytes, time and chance come in as arguments; only so can one seed decide a whole run."""
    wrong = []
    for module in modules():
        if module.room not in FLOORS or FLOORS[module.room] >= WORLD_FLOOR:
            continue
        allowed = WORLD_MODULES_OF.get(module.room, set())
        for found in module.imports:
            top = found.module.split(".")[0]
            if top == "nbd" or (top in WORLD_MODULES and top not in allowed):
                wrong.append(f"{module.at(found)} imports {found.module}")
    assert not wrong, "only shell/, sim/ and cli/ may use these:\n" + "\n".join(wrong)


def test_only_the_standard_library_and_what_pyproject_names_is_imported() -> None:
    """A forgotten dependency shows on the developer's machine last."""
    known = {*sys.stdlib_module_names, *PACKAGES, *ONE_PLACE}
    wrong = [
        f"{module.at(found)} imports {found.module}"
        for module in modules()
        for found in module.imports
        if found.module.split(".")[0] not in known
    ]
    assert not wrong, "name the package in pyproject.toml and in ONE_PLACE:\n" + "\n".join(wrong)


@pytest.mark.parametrize("package", ONE_PLACE)
def test_a_required_package_lives_in_one_place(package: str) -> None:
    """Whoever wants to replace it finds all of it there."""
    users = [
        module.path.relative_to(ROOT).as_posix()
        for module in modules()
        if any(found.module.split(".")[0] == package for found in module.imports)
    ]
    assert users, f"{package} is required, but nothing imports it"
    wrong = [user for user in users if not user.startswith(ONE_PLACE[package])]
    assert not wrong, f"{package} belongs into {', '.join(ONE_PLACE[package])}; found in {wrong}"


def test_imports_form_no_circle() -> None:
    """What is imported when a module loads; hints for the type checker do not count."""
    wants = {
        module.name: sorted(
            {
                found.module
                for found in module.imports
                if found.at_load and not found.for_types and found.module in names()
            }
            - {module.name}
        )
        for module in modules()
    }
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> None:
        assert name not in trail, "circle: " + " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for wanted in wants[name]:
                visit(wanted, [*trail, name])
            done.add(name)

    for name in wants:
        visit(name, [])


def test_no_file_is_dead() -> None:
    """Every module is an entry point or used by another one."""
    used = {found.module for module in modules() for found in module.imports}
    used |= {
        found.module
        for path in sources("scripts")
        for found in imports_of(ast.parse(text_of(path)))
    }
    dead = [
        module.path.relative_to(ROOT).as_posix()
        for module in modules()
        if module.path.name != "__init__.py" and module.name not in used | ENTRY_POINTS
    ]
    assert not dead, "nothing uses these files; use or delete them: " + ", ".join(dead)


def test_entry_points_exist() -> None:
    """The list above must not outlive the files."""
    assert names() >= ENTRY_POINTS


def test_a_folder_begins_with_its_map() -> None:
    """Each ``__init__.py`` says what the folder is for; code goes into files with a name."""
    for path in sources(*PACKAGES):
        if path.name != "__init__.py":
            continue
        tree = ast.parse(text_of(path))
        where = path.relative_to(ROOT)
        assert ast.get_docstring(tree), f"{where} has no docstring"
        code = [node for node in tree.body[1:] if not isinstance(node, ast.Assign)]
        assert not code, f"{where}:{code[0].lineno}: code belongs into a file with a name"


def test_files_stay_readable() -> None:
    """About 120 to 350 lines read well; beyond 500 a file has more than one purpose."""
    long = {
        path.relative_to(ROOT).as_posix(): lines
        for path in sources(*PACKAGES, "scripts", "tests")
        if (lines := path.read_bytes().count(b"\n")) > LINES_MAX
    }
    assert not long, f"more than {LINES_MAX} lines; split by purpose: {long}"


def texts() -> Iterator[Path]:
    """Every file of the project that people wrote."""
    for name in ("Makefile", "README.md", "CHANGELOG.md", "pyproject.toml", ".ci/run"):
        yield ROOT / name
    for folder in (*PACKAGES, "scripts", "tests", "docs"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in TEXTS and "__pycache__" not in path.parts:
                yield path


def lines_with(words: tuple[str, ...]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: {word}"
        for path in texts()
        for number, line in enumerate(text_of(path).splitlines(), 1)
        for word in words
        if word in line
    ]


def test_nothing_is_left_unfinished() -> None:
    """What is not done is not there; what is known to be missing stands in the README."""
    found = lines_with(UNFINISHED)
    assert not found, "finish it, or take it out:\n" + "\n".join(found)


def test_the_project_names_no_registry_and_no_machine() -> None:
    """Where packages come from is the installation's business; paths are the reader's."""
    found = lines_with(FOREIGN_TO_THE_PROJECT)
    assert not found, "\n".join(found)
