"""A small binding of Linux's older AIO: write many blocks past the page cache with one call.

For a thread that has nothing else to do: ``write_all`` submits, and waits for all of it. Only
O_DIRECT descriptors gain by it; others are written one by one inside the submission. Where io_uring
is refused, as by the system call filters of many containers, this is usually allowed.

Offsets and lengths in bytes, results as of pwrite(2) or -errno. ctypes and struct only. Source:
linux/aio_abi.h; the numbers of the system calls are those of the named architectures. Errors:
``OSError`` from the constructor wherever the system has no AIO or refuses it (filters of system
calls, the sysctl fs.aio-max-nr).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Sequence

_NUMBERS = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2), "riscv64": (0, 1, 4, 2)}
"""io_setup, io_destroy, io_getevents, io_submit."""
_PWRITE = 1
# data, key, flags, opcode, priority, fd, address, length, offset, reserved, flags, result fd
_IOCB = struct.Struct("=QIIHhIQQqQII")
_EVENT = struct.Struct("=QQqq")

DirectWrite = tuple[int, int, int]
"""One of many writes: offset, address, length."""


class Aio:
    """A context for up to *most* writes under way. For one thread."""

    def __init__(self, most: int) -> None:
        numbers = _NUMBERS.get(platform.machine())
        if numbers is None:
            raise OSError(errno.ENOSYS, f"AIO is not known on {platform.machine()}")
        setup, self._destroy, self._getevents, self._submit = numbers
        self.most = most
        context = ctypes.c_ulong(0)
        if _syscall(setup, most, ctypes.addressof(context), 0, 0, 0) < 0:
            failed = ctypes.get_errno()
            raise OSError(failed, f"io_setup: {os.strerror(failed)}")
        self._context = context.value
        self._blocks = ctypes.create_string_buffer(_IOCB.size * most)
        first = ctypes.addressof(self._blocks)
        self._pointers = (ctypes.c_uint64 * most)(
            *(first + _IOCB.size * number for number in range(most))
        )
        self._events = ctypes.create_string_buffer(_EVENT.size * most)

    def close(self) -> None:
        """Give the context back; nothing may be under way."""
        _syscall(self._destroy, self._context, 0, 0, 0, 0)

    def write_all(self, fd: int, writes: Sequence[DirectWrite]) -> list[int]:
        """Write all of them, in any order, and wait; what became of each.

        The memory must stay until this returns, and does by that.
        """
        assert len(writes) <= self.most, "more writes than the context was made for"
        for number, (offset, address, length) in enumerate(writes):
            at = number * _IOCB.size
            words = (_PWRITE, 0, fd, address, length, offset, 0, 0, 0)
            _IOCB.pack_into(self._blocks, at, number, 0, 0, *words)
        results = [0] * len(writes)
        pointers = ctypes.addressof(self._pointers)
        begun = under_way = 0
        while begun < len(writes):
            left = len(writes) - begun
            taken = _syscall(self._submit, self._context, left, pointers + 8 * begun, 0, 0)
            if taken > 0:
                begun += taken
                under_way += taken
                continue
            failed = ctypes.get_errno()
            if failed == errno.EAGAIN and under_way:
                under_way -= self._wait(1, results)  # the kernel is short of room: less at a time
            elif failed != errno.EINTR:
                results[begun] = -(failed or errno.EIO)  # about the first that was not taken
                begun += 1
        while under_way:
            under_way -= self._wait(under_way, results)
        return results

    def _wait(self, least: int, results: list[int]) -> int:
        """Note the results of at least so many; how many there were."""
        while True:
            events = ctypes.addressof(self._events)
            found = _syscall(self._getevents, self._context, least, self.most, events, 0)
            if found >= 0:
                break
            failed = ctypes.get_errno()
            if failed != errno.EINTR:
                # Nobody knows then what the kernel still reads from: no memory may be used again.
                raise OSError(failed, f"io_getevents: {os.strerror(failed)}")
        for number in range(found):
            which, _, result, _ = _EVENT.unpack_from(self._events, number * _EVENT.size)
            results[which] = result
        return int(found)


_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.argtypes = (ctypes.c_long,) * 6
_syscall.restype = ctypes.c_long
