"""The daemon of one resource: a node, its ports and its servers on one uvloop.

    lock ─► ports, node ─► NBD, metrics, control socket listen ─► "up" ─► serves ─► "down" ─► gone

What listens fails before anything is attached, so a port in use leaves no trace. "down" comes from
the control socket or as SIGTERM or SIGINT; by signal the NBD clients are disconnected first. The
reply to "down" is the last thing the process does: whoever has it may start the next daemon.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from resource import RLIMIT_CORE, getrlimit, setrlimit

import uvloop

from nbd.reclaim import spare_this_process
from replblk import __version__
from replblk.admin.addresses import parse_tcp
from replblk.admin.messages import Reply, Request
from replblk.engine.metadata_told import METADATA_TEXTS
from replblk.engine.node import Node
from replblk.engine.ports import Answer, Ports
from replblk.model.config import Resource, Settings
from replblk.model.errors import AdminError, MetadataError
from replblk.model.latency import Latencies, latency_text
from replblk.shell.block_devices import BlockDevice
from replblk.shell.buffers import aligned_payload, keep_freed_memory
from replblk.shell.client import Clients
from replblk.shell.clock import MonotonicClock
from replblk.shell.control_server import ControlServer, Done
from replblk.shell.disks import FileDisks
from replblk.shell.doorkeeper import Doorkeeper
from replblk.shell.handler_processes import HandlerProcesses
from replblk.shell.kept_roles import KeptRoles
from replblk.shell.last_known import LastKnownSize
from replblk.shell.links import TcpLinks
from replblk.shell.logs import LogObserver, Observers, SizeObserver, start_logging
from replblk.shell.metrics import MetricsPage
from replblk.shell.metrics_server import MetricsServer
from replblk.shell.nbd_exports import VolumeExports
from replblk.shell.nbd_server import listen, nbd_server, tls_context
from replblk.shell.run_files import DaemonLock, RunFiles
from replblk.shell.turns import Turns

NBD_GRACE_S = 2.0
"""How long NBD requests in flight may take to finish when the daemon ends."""
LINK_LINGER_S = 1.0
"""How long the peer may take to read what was sent last."""
DOWN_S = 60.0
"""How long a "down" by signal may take, before the process ends as if it had crashed."""
RESUME_HOLD_S = 30.0
"""How long NBD clients wait for a daemon that is about to be Primary again, before they are told
that it is not."""
EXIT_STARTUP = 20
SWITCH_S = 0.0005
"""How long a thread may wait for the interpreter: a flush must not wait 5 ms for Python."""

OnReady = Callable[[Answer], None]


def run_foreground(
    resource: Resource, settings: Settings, files: RunFiles, on_ready: OnReady
) -> int:
    """Be the daemon of *resource* until it goes down; the exit status.

    on_ready: told once, when the control socket serves, what became of "up". Raises AdminError if
    the daemon can't start.
    """
    if not __debug__:
        raise AdminError(
            "replblk does not run under 'python -O': its assertions protect the data",
            EXIT_STARTUP,
        )
    os.umask(0o077)
    # A core dump would hold the shared secret and users' data.
    setrlimit(RLIMIT_CORE, (0, getrlimit(RLIMIT_CORE)[1]))
    files.make()
    lock = DaemonLock(files)
    try:
        start_logging(settings.log_level)
        sys.setswitchinterval(SWITCH_S)
        keep_freed_memory()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(resource, settings, files, lock, on_ready))
    finally:
        lock.release()


async def _serve(
    resource: Resource, settings: Settings, files: RunFiles, lock: DaemonLock, on_ready: OnReady
) -> int:
    daemon = Daemon(resource, settings, files, lock)
    try:
        await daemon.start()
    except AdminError:
        await daemon.shut()
        raise
    daemon.up(on_ready)
    return await daemon.serve()


class Daemon:
    """The wiring of one node to the world."""

    def __init__(
        self, resource: Resource, settings: Settings, files: RunFiles, lock: DaemonLock
    ) -> None:
        loop = asyncio.get_running_loop()
        # Before any thread begins, for threads inherit it.
        refused = [] if settings.nbd_device == "no" else spare_this_process()
        self._loop = loop
        self._settings = settings
        self._files = files
        self._lock = lock
        self._log = LogObserver(resource)
        for what in refused:
            self._log.warn(f"the machine may stand still when its memory is short: {what}")
        self._roles = KeptRoles(files.roles, enabled=settings.resume_primary)
        self._resuming = set(self._roles.primary)
        self._latencies = Latencies()
        self._turns = Turns(loop, latencies=self._latencies)
        net = resource.net
        self._links = TcpLinks(
            resource.local.address,
            resource.peer.address if resource.peer is not None else None,
            loop,
            self._turns,
            self._log.warn,
            sndbuf_bytes=net.sndbuf_size,
            rcvbuf_bytes=net.rcvbuf_size,
        )
        paths = {volume.number: os.path.abspath(volume.disk) for volume in resource.local.volumes}
        state = files.state_folder(settings.state_dir)
        self._disks = FileDisks(
            paths,
            loop,
            self._turns.on_disk_answers,
            self._log.info,
            latencies=self._latencies,
            known={
                volume.number: LastKnownSize(state, volume.minor, volume.disk, self._log.warn)
                for volume in resource.local.volumes
            },
        )
        self._clock = MonotonicClock(loop, self._turns.on_wake)
        self._clients = Clients(self._turns, self._turns.before_step)
        # The peer's commit overlaps ours: send first, then write; replies last.
        self._turns.after_step(self._links, self._latencies.send)
        self._turns.after_step(self._disks, self._latencies.submit)
        self._turns.after_step(self._clients)
        # A handler may use the command line tool: it is to mean this node.
        own = {
            "REPLBLK_CONFIG": resource.config_file,
            "REPLBLK_NODE": resource.local.names[0],
            "REPLBLK_RUN_DIR": str(files.folder.parent),
        }
        self._handlers = HandlerProcesses(loop, self._turns.on_handler_done, own)
        self._sizes = SizeObserver()
        observers = Observers(self._log, self._roles, self._sizes)
        ports = Ports(
            self._disks,
            self._links,
            self._clock,
            self._clients,
            observers,
            self._handlers,
            new_payload=aligned_payload,
        )
        self._node = Node(resource, settings, ports, self._latencies)
        self._turns.drive(self._node)
        volumes = tuple(volume.number for volume in resource.local.volumes)
        exports = VolumeExports(
            resource.name,
            volumes,
            self._node,
            self._clients,
            self._disks,
            self._turns.wake,
            self._resuming.__contains__,
        )
        self._sizes.told.append(exports.resized)
        self._nbd = nbd_server(exports, settings, self._turns.soon, self._latencies.parse.record)
        self._devices = {n: BlockDevice(resource, n, files, settings) for n in volumes}
        self._sizes.told.append(self._on_resized)
        self._clients.door = Doorkeeper(
            self._nbd, exports.volume_of, lambda volume: self._devices[volume].keeps_here()
        )
        self._metrics = MetricsServer(MetricsPage(self._node.status, self._latencies).text)
        self._control = ControlServer(self._on_request)
        self._ended: asyncio.Future[int] = loop.create_future()
        self._last_replies: list[Done] = []
        self._terminating: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen everywhere; AdminError if somewhere can't be listened."""
        if self._resuming:
            self._nbd.hold()
        activated = await listen(self._nbd, self._settings, self._files)
        if activated:
            self._log.info(f"NBD is served on {len(activated)} activated sockets as well")
        if self._settings.metrics_listen:
            at = parse_tcp(self._settings.metrics_listen)
            await self._metrics.listen(at.host, at.port)
        await self._control.listen(self._files.control)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_signal, number)
        self._loop.add_signal_handler(signal.SIGHUP, self._read_tls_again)
        self._log.info(f"replblk {__version__} serves, process {os.getpid()}")

    def command(
        self, verb: str, done: Callable[[Answer], None], options: dict[str, object] | None = None
    ) -> None:
        """A command for the whole resource."""
        self._clients.command(done, verb, None, options or {})

    def up(self, on_ready: OnReady) -> None:
        """Attach and connect; then become Primary again where that is wanted and safe."""

        def came_up(answer: Answer) -> None:
            on_ready(answer)
            for volume in sorted(self._resuming):
                done = partial(self._resumed, volume)
                self._clients.command(done, "resume", volume, {})

        self.command("up", came_up)
        if self._resuming:
            self._loop.call_later(RESUME_HOLD_S, self._nbd.release)

    def _resumed(self, volume: int, answer: Answer) -> None:
        self._resuming.discard(volume)
        if answer.exit_code:
            self._roles.forget(volume)
            self._log.warn(f"volume {volume}: {answer.text}")
        else:
            self._log.info(f"volume {volume}: Primary again")
        if not self._resuming:
            self._nbd.release()

    def _on_resized(self, volume: int, _old_bytes: int, new_bytes: int) -> None:
        """A block device follows: its helper connects again to ask for the size."""
        try:
            if new_bytes:
                self._devices[volume].ask_size()
        except PermissionError:
            self._log.warn(
                f"volume {volume}: its block device is another user's and keeps its size"
            )

    async def serve(self) -> int:
        """Until the end; returns the exit status."""
        status = await self._ended
        await self.shut()
        return status

    async def shut(self) -> None:
        """Let everything go, the right to be the daemon last; then answer those who wait for it."""
        self._control.stop_listening()
        await self._nbd.close(NBD_GRACE_S)
        await self._metrics.close()
        await self._links.shut(LINK_LINGER_S)
        self._clock.close()
        self._handlers.close()
        self._turns.stop()
        self._log.info("ends")
        self._lock.release()
        for done in self._last_replies:
            done(Reply(0))
        await self._control.close()

    def _on_request(self, request: Request, done: Done) -> None:
        if request.verb == "status":
            done(Reply(0, status=self._node.status()))
            return
        if request.verb in METADATA_TEXTS:
            done(self._metadata(request))
            return
        if request.verb == "latency":
            done(Reply(0, latency_text(self._latencies)))
            return

        def answered(answer: Answer) -> None:
            if request.verb == "down" and not answer.exit_code:
                self._last_replies.append(done)
                self._end(0)
            else:
                done(Reply(answer.exit_code, answer.text, answer.code))

        self._clients.command(answered, request.verb, request.volume, dict(request.options))

    def _metadata(self, request: Request) -> Reply:
        """Metadata as text, of a volume whose disk is attached."""
        if request.volume is None or request.volume not in self._node.volumes:
            return Reply(1, f"{request.verb} needs one of the resource's volumes", 0)
        now = time.time()
        header = (
            time.strftime(f"%Y-%m-%d %H:%M:%S %z [{int(now)}]", time.localtime(now)),
            f"{os.uname().nodename}> {request.verb} of the attached disk",
        )
        try:
            return Reply(0, self._node.metadata_text(request.volume, request.verb, header))
        except MetadataError as error:
            return Reply(EXIT_STARTUP, str(error), error.number)

    def _end(self, status: int) -> None:
        if not self._ended.done():
            self._ended.set_result(status)

    def _read_tls_again(self) -> None:
        try:
            self._nbd.tls = tls_context(self._settings)
        except AdminError as error:
            self._log.warn(f"SIGHUP: the old certificates stay in use: {error}")
        else:
            self._log.info("SIGHUP: certificates and keys for NBD are read again")

    def _on_signal(self, number: int) -> None:
        name = signal.Signals(number).name
        if self._terminating is not None:
            self._log.warn(f"{name} again: ends at once")
            self._end(128 + number)
            return
        self._log.info(f"{name}: going down")
        self._terminating = self._loop.create_task(self._terminate())

    async def _terminate(self) -> None:
        """The way down for a supervisor: clients are let go, and nothing can refuse."""
        deadline_s = time.monotonic() + DOWN_S
        self._roles.freeze()
        await self._nbd.close(NBD_GRACE_S, silent=self._roles.enabled)
        for options in ({}, {"force": True}):
            answered: asyncio.Future[Answer] = self._loop.create_future()
            self.command("down", answered.set_result, dict(options))
            try:
                async with asyncio.timeout(max(1.0, deadline_s - time.monotonic())):
                    answer = await answered
            except TimeoutError:
                self._log.warn("going down takes too long: ends as if it had crashed")
                break
            if not answer.exit_code:
                self._end(0)
                return
            self._log.warn(f"going down: {answer.text}")
        self._end(1)
