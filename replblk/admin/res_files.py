"""Reads the main file, what it includes and standard input; each real file at most once.

An include pattern is relative to the directory of the file that contains it. Bytes that
are not UTF-8 are harmless in comments and refused everywhere else.
"""

from __future__ import annotations

import glob
from pathlib import Path
from typing import TextIO

from replblk.admin.res_lexer import Lexer, Place, printable
from replblk.admin.res_model import Findings, Tree
from replblk.admin.res_parser import Parser
from replblk.admin.res_stream import Stream
from replblk.model.errors import ConfigError

DEFAULT_FILES = tuple(f"/etc/drbd{suffix}.conf" for suffix in ("-84", "-83", "-82", "-08", ""))
"""Where drbdadm looks when no file is named, in this order."""
STDIN = "<stdin>"
DEPTH_MAX = 50
FILE_BYTES_MAX = 16 << 20


class FileReader:
    """Reads files into one tree; ``files`` lists what was read, in order."""

    def __init__(self, tree: Tree, findings: Findings) -> None:
        self.files: list[str] = []
        self._tree = tree
        self._findings = findings
        self._seen: set[Path] = set()
        self._depth = 0

    def read_main(self, path: str, stdin: TextIO | None) -> None:
        """Read the main file; ``-`` is *stdin*."""
        if path == "-":
            if stdin is None:
                raise ConfigError("Can not open '-': no standard input here", exit_code=20)
            self._parse(stdin.read(FILE_BYTES_MAX + 1), STDIN, Path())
            return
        # drbdadm ends with 20 for a file that was named and with 10 for the usual one
        code = 10 if path in DEFAULT_FILES else 20
        try:
            self._read_file(Path(path), path)
        except OSError as error:
            raise ConfigError(
                f"Can not open '{printable(path)}': {error.strerror}", exit_code=code
            ) from error
        except ValueError as error:  # a NUL in the name
            raise ConfigError(f"Can not open '{printable(path)}': {error}", exit_code=20) from error

    def _read_file(self, path: Path, name: str) -> None:
        real = path.resolve()
        if real in self._seen:
            return
        self._seen.add(real)
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
        self._parse(data.decode("utf-8", "surrogateescape"), name, path.parent)

    def _parse(self, text: str, name: str, folder: Path) -> None:
        if len(text) > FILE_BYTES_MAX:
            raise ConfigError(f"larger than {FILE_BYTES_MAX >> 20} MiB: no configuration", name)
        self.files.append(name)
        stream = Stream(Lexer(text, name), self._findings)

        def include(pattern: str, place: Place) -> None:
            self._include(pattern, place, folder)

        Parser(stream, self._tree, include).parse()

    def _include(self, pattern: str, place: Place, folder: Path) -> None:
        """Read what an include statement names; a pattern may match nothing, a name may not."""
        shown = printable(pattern)
        if "\0" in pattern or not pattern:
            self._findings.error(place, f"Failed to open include file '{shown}'.")
            return
        if self._depth == DEPTH_MAX:
            raise place.error(f"include '{shown}': files include each other {DEPTH_MAX} deep")
        if any(char in pattern for char in "*?["):
            matches = [folder / match for match in sorted(glob.glob(pattern, root_dir=folder))]
            matches = [match for match in matches if _is_file(match)]
        else:
            matches = [folder / pattern]
            if not _is_file(matches[0]):
                self._findings.error(place, f"Failed to open include file '{shown}'.")
                return
        self._depth += 1
        for match in matches:
            try:
                self._read_file(match, str(match))
            except OSError as error:
                text = f"Failed to open include file '{printable(str(match))}'. {error.strerror}"
                self._findings.error(place, text)
        self._depth -= 1


def _is_file(path: Path) -> bool:
    """Whether it is a regular file; one that can't be looked at is for ``open`` to explain."""
    try:
        return path.is_file()
    except OSError:
        return True


def absolute(file: str) -> str:
    """The absolute path of a file as it was named; standard input stays what it is."""
    return file if file == STDIN else str(Path(file).absolute())
