"""A small binding of Linux's io_uring: submit many disk operations with one call, hear when done.

Made for one loop and one thread: the ring's descriptor becomes readable when completions wait, so
it belongs into the event loop, and nothing here blocks. Operations are numbered by the caller
(``user_data``); a completion is (number, result), the result being that of the plain system call,
or -errno. Offsets and lengths in bytes; addresses of memory that must live until the completion.

ctypes and mmap only: the ring is shared memory that ``struct`` writes well enough. Source:
linux/io_uring.h; the numbers of the system calls are the same on every architecture that Python
3.11 runs on. Errors: ``OSError`` from the constructor wherever the system has no io_uring or
refuses it (old kernels, seccomp filters of containers, the sysctl kernel.io_uring_disabled).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct

_SYS_SETUP = 425
_SYS_ENTER = ctypes.c_long(426)

_SETUP_CLAMP = 1 << 4
_SETUP_COOP_TASKRUN = 1 << 8
_FEAT_SINGLE_MMAP = 1 << 0
_FEAT_NODROP = 1 << 1
_FEAT_EXT_ARG = 1 << 8
_ENTER_GETEVENTS = 1 << 0
_ENTER_EXT_ARG = 1 << 3
_WAITING = _ENTER_GETEVENTS | _ENTER_EXT_ARG
_OFF_SQES = 0x10000000

_OP_FSYNC = 3
_OP_FALLOCATE = 17
READ = 22
WRITE = 23
_FSYNC_DATASYNC = 1
RWF_DSYNC = 0x00000002
"""linux/fs.h: this one write is durable when it completes."""

_PARAMS = struct.Struct("=10I8IQ8IQ")
# opcode, flags, ioprio, fd, offset, address, length, operation flags, user_data; then zeroes
_SQE = struct.Struct("=BBHiQQIIQ24x")
_SQE_BYTES = _SQE.size
_CQE = struct.Struct("=Qi4x")
_TIMESPEC = struct.Struct("=qq")
_GETEVENTS_ARG = struct.Struct("=QIIQ")

Transfer = tuple[int, int, int, int]
"""One of many reads or writes: number, offset, address, length."""


class Ring:
    """One submission and one completion queue. entries: a power of two, operations per ``submit``.

    ``pending`` operations are prepared and not yet taken by the kernel. The caller keeps no more
    than ``capacity`` operations in flight, so the completion queue can't overflow.
    """

    def __init__(self, entries: int) -> None:
        self.pending = 0
        self._fd, fields = _setup(entries)
        try:
            self._map(fields)
        except BaseException:
            os.close(self._fd)
            raise

    def _map(self, fields: tuple[int, ...]) -> None:
        sq_entries, cq_entries, features = fields[0], fields[1], fields[5]
        if not features & _FEAT_SINGLE_MMAP or not features & _FEAT_NODROP:
            raise OSError(errno.ENOSYS, "this io_uring is older than Linux 5.5")
        sq_head, sq_tail, sq_mask, _, _, _, sq_array = fields[10:17]
        cq_head, cq_tail, cq_mask, _, _, cqes = fields[19:25]
        self.capacity = cq_entries
        self.can_wait = bool(features & _FEAT_EXT_ARG)
        """Whether ``submit_and_wait`` works: since Linux 5.11."""
        self._limit = ctypes.create_string_buffer(_TIMESPEC.size)
        self._limit_ns = 0
        self._getevents = ctypes.create_string_buffer(
            _GETEVENTS_ARG.pack(0, 0, 0, ctypes.addressof(self._limit)), _GETEVENTS_ARG.size
        )
        self._wait_argument = (
            ctypes.c_long(ctypes.addressof(self._getevents)),
            ctypes.c_long(_GETEVENTS_ARG.size),
        )
        ring_bytes = max(sq_array + 4 * sq_entries, cqes + _CQE.size * cq_entries)
        self._ring = mmap.mmap(self._fd, ring_bytes)
        self._sqes = mmap.mmap(self._fd, _SQE_BYTES * sq_entries, offset=_OFF_SQES)
        words = memoryview(self._ring)[: ring_bytes // 4 * 4].cast("I")
        self._words = words
        self._entries = sq_entries
        self._sq_mask, self._cq_mask = words[sq_mask // 4], words[cq_mask // 4]
        self._sq_head, self._sq_tail = sq_head // 4, sq_tail // 4
        self._cq_head, self._cq_tail, self._cqes = cq_head // 4, cq_tail // 4, cqes
        for number in range(sq_entries):  # entries are always used in their order
            words[sq_array // 4 + number] = number

    def fileno(self) -> int:
        """Readable when completions wait."""
        return self._fd

    def close(self) -> None:
        """Give everything back; nothing may be in flight."""
        self._words.release()
        self._ring.close()
        self._sqes.close()
        os.close(self._fd)

    @property
    def room(self) -> int:
        """How many operations can be prepared before the next ``submit``."""
        return self._entries - self.pending

    def read(self, number: int, fd: int, offset: int, address: int, length: int) -> None:
        """Prepare a read."""
        self._push(READ, fd, offset, address, length, 0, number)

    def write(
        self, number: int, fd: int, offset: int, address: int, length: int, flags: int = 0
    ) -> None:
        """Prepare a write. flags: RWF_DSYNC or 0."""
        self._push(WRITE, fd, offset, address, length, flags, number)

    def transfers(self, op: int, fd: int, transfers: list[Transfer], flags: int = 0) -> None:
        """Prepare many reads or writes, each as ``read`` or ``write`` does: a batch is one call.
        op: READ or WRITE."""
        count = self.pending + len(transfers)
        assert count <= self._entries, "more operations than there is room for"
        words, mask, sqes, pack = self._words, self._sq_mask, self._sqes, _SQE.pack_into
        tail = words[self._sq_tail]
        for number, offset, address, length in transfers:
            at = (tail & mask) * _SQE_BYTES
            pack(sqes, at, op, 0, 0, fd, offset, address, length, flags, number)
            tail = tail + 1 & 0xFFFFFFFF
        words[self._sq_tail] = tail
        self.pending = count

    def fdatasync(self, number: int, fd: int) -> None:
        """Prepare a flush of all that was completed before."""
        self._push(_OP_FSYNC, fd, 0, 0, 0, _FSYNC_DATASYNC, number)

    def fallocate(self, number: int, fd: int, mode: int, offset: int, length: int) -> None:
        """Prepare a fallocate(2)."""
        self._push(_OP_FALLOCATE, fd, offset, length, mode, 0, number)

    def _push(
        self, op: int, fd: int, offset: int, address: int, length: int, flags: int, number: int
    ) -> None:
        assert self.pending < self._entries, "more operations prepared than the ring has room for"
        words = self._words
        tail = words[self._sq_tail]
        at = (tail & self._sq_mask) * _SQE_BYTES
        _SQE.pack_into(self._sqes, at, op, 0, 0, fd, offset, address, length, flags, number)
        words[self._sq_tail] = tail + 1 & 0xFFFFFFFF
        self.pending += 1

    def submit(self) -> bool:
        """Hand over what was prepared; False if the kernel could not take all of it just now."""
        while self.pending:
            taken = _enter(_SYS_ENTER, self._fd, self.pending, 0, 0)
            if taken < 0:
                failed = ctypes.get_errno()
                if failed == errno.EINTR:
                    continue
                if failed in (errno.EAGAIN, errno.EBUSY):
                    return False
                raise OSError(failed, f"io_uring_enter: {os.strerror(failed)}")
            self.pending -= taken
        return True

    def submit_and_wait(self, limit_ns: int) -> bool:
        """``submit``, then stay until something has completed, *limit_ns* at the longest: one call
        instead of three where the caller has nothing else to do."""
        if limit_ns != self._limit_ns:
            self._limit_ns = limit_ns
            _TIMESPEC.pack_into(self._limit, 0, *divmod(limit_ns, 1_000_000_000))
        taken = _enter(_SYS_ENTER, self._fd, self.pending, 1, _WAITING, *self._wait_argument)
        if taken > 0:
            self.pending -= taken
        # What was not taken, and whatever went wrong, is told by ``submit``.
        return not self.pending or self.submit()

    def completions(self) -> list[tuple[int, int]]:
        """(number, result) of everything that has completed; empty if nothing has."""
        words, mask, cqes = self._words, self._cq_mask, self._cqes
        head, tail = words[self._cq_head], words[self._cq_tail]
        unpack, ring, size = _CQE.unpack_from, self._ring, _CQE.size
        found = []
        while head != tail:
            found.append(unpack(ring, cqes + (head & mask) * size))
            head = head + 1 & 0xFFFFFFFF
        words[self._cq_head] = head
        return found


def _setup(entries: int) -> tuple[int, tuple[int, ...]]:
    """(descriptor, io_uring_params as the kernel filled them in). Raises OSError."""
    failed = 0
    for flags in (_SETUP_CLAMP | _SETUP_COOP_TASKRUN, _SETUP_CLAMP):  # the former: Linux 5.19
        params = ctypes.create_string_buffer(_PARAMS.size)
        struct.pack_into("=I", params, 8, flags)
        fd = _syscall(_SYS_SETUP, entries, ctypes.addressof(params), 0, 0, 0, 0)
        if fd >= 0:
            os.set_inheritable(fd, False)
            return fd, _PARAMS.unpack(params.raw)
        failed = ctypes.get_errno()
        if failed != errno.EINVAL:
            break
    raise OSError(failed, f"io_uring_setup: {os.strerror(failed)}")


_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc["syscall"]
_syscall.argtypes = (ctypes.c_long,) * 7
_syscall.restype = ctypes.c_long
_enter = _libc["syscall"]
"""The same for io_uring_enter(2), whose numbers are 32 bits wide: ctypes passes these in half the
time when it need not look what they are to become. Without _WAITING the last two are not read."""
_enter.restype = ctypes.c_long
