"""What is wrong with a request, if anything: judged before the export hears of it.

Offsets and lengths in bytes. Source: proto.md; the tables of commands, flags and errors.
"""

from __future__ import annotations

from nbd.export import Export, FastZeroes
from nbd.plain_numbers import (
    CACHE,
    DF,
    FAST_ZERO,
    FLUSH,
    FUA,
    NO_HOLE,
    READ,
    REQ_ONE,
    STATUS,
    TRIM,
    WRITE,
    ZERO,
)
from nbd.protocol import ERROR_TEXT, Error

Refusal = tuple[Error, str]


class Judge:
    """Judges one client's requests on one export. chunks: its replies may come in chunks.
    contexts: it selected some. misaligned: bits that no offset or length may have."""

    def __init__(self, export: Export, *, chunks: bool, contexts: bool, misaligned: int) -> None:
        geometry = self._geometry = export.geometry
        self._export = export
        self._misaligned = misaligned
        self._flags_of = {READ: FUA | (DF if chunks else 0), WRITE: FUA, FLUSH: FUA, CACHE: 0}
        if geometry.can_trim:
            self._flags_of[TRIM] = FUA
        if geometry.can_zero:
            self._flags_of[ZERO] = FUA | NO_HOLE | (FAST_ZERO if geometry.can_fast_zero else 0)
        if contexts:
            self._flags_of[STATUS] = REQ_ONE

    def __call__(
        self, flags: int, command: int, offset: int, length: int, stopping: bool
    ) -> Refusal | None:
        """The error and a sentence; None: the request is good. stopping: no request is."""
        if stopping:
            return Error.ESHUTDOWN, ERROR_TEXT[Error.ESHUTDOWN]
        allowed = self._flags_of.get(command)
        if allowed is None:
            return Error.EINVAL, f"the export does not offer command {command}"
        if flags & ~allowed:
            odd = flags & ~allowed
            return Error.EINVAL, f"flags {odd:#x} are not allowed with command {command}"
        if command == FLUSH:
            return None
        if command in (WRITE, TRIM, ZERO) and self._geometry.read_only:
            return Error.EPERM, "the export is read-only"
        size = self._export.geometry.size  # which may change
        if offset + length > size:
            error = Error.ENOSPC if command in (WRITE, ZERO) else Error.EINVAL
            text = f"{length} bytes at {offset} reach beyond the export's {size} bytes"
            return error, text
        most = self._geometry.maximum_payload
        if command in (READ, WRITE) and length > most:
            error = Error.EOVERFLOW if flags & DF else Error.EINVAL
            return error, f"{length} bytes exceed the maximum payload of {most}"
        if (offset | length) & self._misaligned:
            block = self._misaligned + 1
            return Error.EINVAL, f"{length} bytes at {offset} are not whole blocks of {block}"
        if flags & FAST_ZERO and length:  # asked before anything is changed
            export, unmap = self._export, not flags & NO_HOLE
            if not isinstance(export, FastZeroes) or not export.zeroes_fast(offset, length, unmap):
                return Error.ENOTSUP, ERROR_TEXT[Error.ENOTSUP]
        return None
