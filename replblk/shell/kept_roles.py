"""Remembers, over the end of the process, which volumes are Primary: for ``resume_primary``.

A file in the run directory, so a machine that boots anew remembers nothing. It is written when a
volume becomes Primary and forgets one that an administrator made Secondary; a process that is
killed, or ended by a signal, leaves it as it is.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from replblk.model.notices import Notice, StateChanged
from replblk.model.vocabulary import Role


class KeptRoles:
    """The file, and what it said when the process began. enabled: the setting; without it, a file
    that is there is removed and none is written."""

    def __init__(self, path: Path, *, enabled: bool) -> None:
        self._path = path
        self._enabled = enabled
        self._frozen = False
        self.primary = self._read() if enabled else frozenset()
        """Volumes that were Primary at the end of the last process."""
        self._now = set(self.primary)
        if not enabled:
            path.unlink(missing_ok=True)

    @property
    def enabled(self) -> bool:
        """Whether roles are kept at all."""
        return self._enabled

    def notice(self, notice: Notice) -> None:
        """A volume's role changes: the file follows."""
        if not isinstance(notice, StateChanged) or notice.old.role is notice.new.role:
            return
        if notice.new.role is Role.PRIMARY:
            self._now.add(notice.volume)
        else:
            self._now.discard(notice.volume)
        self._write()

    def forget(self, volume: int) -> None:
        """The volume will not become Primary by itself again."""
        self._now.discard(volume)
        self._write()

    def freeze(self) -> None:
        """From now on the file stays as it is: the process is being ended, not the role."""
        self._frozen = True

    def _write(self) -> None:
        if not self._enabled or self._frozen:
            return
        if not self._now:
            self._path.unlink(missing_ok=True)
            return
        fresh = self._path.with_name(self._path.name + ".new")
        fresh.write_text(json.dumps({"primary": sorted(self._now)}) + "\n")
        os.replace(fresh, self._path)

    def _read(self) -> frozenset[int]:
        try:
            found = json.loads(self._path.read_text())["primary"]
            return frozenset(number for number in found if isinstance(number, int))
        except FileNotFoundError:
            return frozenset()
        except (OSError, ValueError, KeyError, TypeError):
            return frozenset()  # torn by a crash: nothing is resumed, which is safe
