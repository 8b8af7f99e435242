"""The administrator's commands, one after the other; waiting ones beside them.

Each ends in one answer: DRBD's code and sentence, and what to do. A change refused because the
state is just moving (-18) is tried again when it has moved.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from replblk.engine.context import SECOND_NS, TENTH_NS
from replblk.engine.handshake import send_state, send_uuids
from replblk.engine.ports import Answer, Command
from replblk.model.notices import Level
from replblk.model.vocabulary import CODE_TEXT, Code, ConnState, DiskState, Role, exit_code
from replblk.rules.generations import rotated, rotation_at_promotion
from replblk.rules.transitions import (
    DETACH,
    DISCONNECT,
    INVALIDATE,
    INVALIDATE_REMOTE,
    PROMOTE,
    PROMOTE_UPTODATE,
    StateRequest,
)

if TYPE_CHECKING:
    from replblk.engine.attach import Attach
    from replblk.engine.connection import Connection
    from replblk.engine.context import Context
    from replblk.engine.state_change import StateRequests
    from replblk.engine.volume import Volume
    from replblk.engine.write_origin import WriteOrigin

ADVICE: dict[Code, str] = {
    Code.TWO_PRIMARIES: "the peer is Primary: make it secondary there first",
    Code.NO_UP_TO_DATE_DISK: "connect to a peer with UpToDate data, or, if the local data is what "
    "you want, use primary --force",
    Code.DEVICE_IN_USE: "disconnect the NBD clients (or unmount) first",
    Code.IS_DISKLESS: "attach a disk first",
    Code.NEED_CONNECTION: "connect first",
    Code.RESYNC_RUNNING: "wait until the resync is done (wait-sync)",
    Code.CW_FAILED_BY_PEER: "the reason is in the log of this node, and in the peer's",
    Code.LOWER_THAN_OUTDATED: "the disk is Inconsistent already",
    Code.NO_LOCAL_DISK: "attach a disk first",
    Code.NO_REMOTE_DISK: "attach the peer's disk first",
    Code.CONCURRENT_ST_CHG: "both nodes changed state at once: try again",
    Code.IN_TRANSIENT_STATE: "try again in a moment",
}
TRANSIENT_TRIES_NS = 60 * SECOND_NS
Then = Callable[[Answer], None]


def refusal(code: Code) -> Answer:
    """DRBD's sentence for a refused change, and what to do."""
    text = f"State change failed: ({int(code)}) {CODE_TEXT.get(code, 'unknown error.')}"
    advice = ADVICE.get(code)
    return Answer(exit_code(code), f"{text}: {advice}" if advice else text, int(code))


def outcome(code: Code) -> Answer:
    """Fine, or refused."""
    return Answer(0, "", int(code)) if code >= Code.SUCCESS else refusal(code)


class Commands:
    """Runs commands against the paths it is given."""

    def __init__(
        self,
        ctx: Context,
        *,
        attach: Attach,
        connection: Connection,
        requests: StateRequests,
        writes: WriteOrigin,
    ) -> None:
        self._ctx = ctx
        self._attach = attach
        self._connection = connection
        self._requests = requests
        self._writes = writes
        self._queue: deque[Command] = deque()
        self._running: Command | None = None
        self._verbs: dict[str, Callable[[Command, Then], None]] = {
            "up": self._up,
            "down": self._down,
            "connect": self._connect,
            "disconnect": self._disconnect,
            "attach": self._each(self._attach_one),
            "detach": self._each(self._detach_one),
            "primary": self._each(self._primary),
            "secondary": self._each(self._secondary),
            "invalidate": self._each(self._invalidate),
            "invalidate-remote": self._each(self._invalidate_remote),
            "outdate": self._each(self._outdate),
            "pause-sync": self._each(self._pause),
            "resume-sync": self._each(self._resume),
        }
        self._waits = {"wait-connect": self._wait_connect, "wait-sync": self._wait_sync}

    # -- one after the other ------------------------------------------------------------------

    def on_command(self, command: Command) -> None:
        """A command arrived: those that only wait run beside the others."""
        if command.volume is not None and command.volume not in self._ctx.volumes:
            self._ctx.answer(
                command,
                Answer(
                    1, f"volume {command.volume} is not defined in {self._ctx.resource.name}", 0
                ),
            )
        elif command.verb in self._waits:
            self._waits[command.verb](command)
        elif command.verb not in self._verbs:
            self._ctx.answer(command, Answer(1, f"Unknown command '{command.verb}'", 0))
        else:
            self._queue.append(command)
            self._next()

    def _next(self) -> None:
        if self._running is not None or not self._queue:
            return
        command = self._running = self._queue.popleft()

        def done(answer: Answer) -> None:
            self._running = None
            self._ctx.answer(command, answer)
            self._ctx.defer(self._next)

        self._verbs[command.verb](command, done)

    def _volumes(self, command: Command) -> list[Volume]:
        if command.volume is not None:
            return [self._ctx.volumes[command.volume]]
        return [self._ctx.volumes[number] for number in sorted(self._ctx.volumes)]

    def _each(
        self, one: Callable[[Volume, Command, Then], None]
    ) -> Callable[[Command, Then], None]:
        """For each volume in turn; the first refusal ends it."""

        def run(command: Command, then: Then) -> None:
            left: Iterator[Volume] = iter(self._volumes(command))

            def step(answer: Answer) -> None:
                volume = next(left, None)
                if answer.exit_code or volume is None:
                    then(answer)
                else:
                    one(volume, command, step)

            step(Answer())

        return run

    def _retrying(self, volume: Volume, wish: StateRequest, then: Callable[[Code], None]) -> None:
        """Request a change; while it is refused as transient, try again after the state moved."""
        give_up_ns = self._ctx.now_ns() + TRANSIENT_TRIES_NS

        def answered(code: Code) -> None:
            if code is not Code.IN_TRANSIENT_STATE or self._ctx.now_ns() > give_up_ns:
                then(code)
                return
            seen = volume.state
            name = ("transient", volume.number)

            def again() -> bool:
                late = not self._ctx.timers.pending(name)
                if volume.state == seen and not volume.handshaking and not late:
                    return False
                if volume.handshaking and not late:
                    return False
                self._ctx.timers.cancel(name)
                self._requests.request(volume, wish, answered)
                return True

            self._ctx.timers.set(name, SECOND_NS, lambda: None)
            self._ctx.when(again)

        self._requests.request(volume, wish, answered)

    # -- up and down --------------------------------------------------------------------------

    def _up(self, command: Command, then: Then) -> None:
        """Attach every disk, then connect; a disk that can't be attached does not stop the rest."""
        failures: list[Answer] = []
        left = iter(self._volumes(command))

        def step(answer: Answer | None) -> None:
            if answer is not None and answer.exit_code:
                failures.append(answer)
            volume = next(left, None)
            if volume is not None:
                self._attach.attach(volume, step)
                return
            if self._ctx.resource.peer is not None:
                self._connection.start("up")
            if failures:
                text = "\n".join(failure.text for failure in failures)
                then(Answer(max(f.exit_code for f in failures), text, failures[0].code))
            else:
                then(Answer())

        step(None)

    def _down(self, command: Command, then: Then) -> None:
        """Demote, disconnect, detach; the first refusal ends it."""

        def demoted(answer: Answer) -> None:
            if answer.exit_code:
                then(
                    Answer(
                        answer.exit_code,
                        f"{answer.text}\nadditional info: failed to demote",
                        answer.code,
                    )
                )
            elif self._ctx.states.connection is ConnState.STANDALONE:
                disconnected(Answer())
            else:
                self._disconnect(command, disconnected)

        def disconnected(answer: Answer) -> None:
            if answer.exit_code:
                then(answer)
            else:
                self._each(self._detach_quietly)(command, then)

        self._each(self._secondary)(command, demoted)

    def _detach_quietly(self, volume: Volume, command: Command, then: Then) -> None:
        """Detach at the end: whatever is dirty is written first."""
        if volume.state.disk is DiskState.DISKLESS:
            then(Answer())
            return
        meta = volume.meta

        def synced(_: bool) -> None:
            self._ctx.states.force(volume, "down", disk=DiskState.FAILED)
            self._await_diskless(volume, then)

        if meta is None or not volume.has_disk:
            self._await_diskless(volume, then)
        else:
            meta.write_bitmap(lambda ok: meta.sync(synced))

    def _await_diskless(self, volume: Volume, then: Then) -> None:
        def diskless() -> bool:
            if volume.state.disk is not DiskState.DISKLESS:
                return False
            then(Answer())
            return True

        self._ctx.when(diskless)

    # -- disks --------------------------------------------------------------------------------

    def _attach_one(self, volume: Volume, command: Command, then: Then) -> None:
        self._attach.attach(volume, then)

    def _detach_one(self, volume: Volume, command: Command, then: Then) -> None:
        if volume.state.disk is DiskState.DISKLESS:
            then(Answer())
            return
        if command.options.get("force"):
            self._ctx.states.force(volume, "detach --force", disk=DiskState.FAILED)
            self._await_diskless(volume, then)
            return

        def answered(code: Code) -> None:
            if code >= Code.SUCCESS:
                self._await_diskless(volume, then)
            else:
                then(refusal(code))

        self._retrying(volume, DETACH, answered)

    # -- roles --------------------------------------------------------------------------------

    def _primary(self, volume: Volume, command: Command, then: Then) -> None:
        """Become Primary; force: declare the local data good."""
        if volume.primary:
            then(Answer())
            return
        tries = {"two-primaries": 1}

        def attempt(wish: StateRequest) -> None:
            self._retrying(volume, wish, lambda code: answered(wish, code))

        def answered(wish: StateRequest, code: Code) -> None:
            disk = volume.state.disk
            may_force = DiskState.INCONSISTENT <= disk < DiskState.UP_TO_DATE
            if (
                code is Code.NO_UP_TO_DATE_DISK
                and command.options.get("force")
                and may_force
                and wish is PROMOTE
            ):
                attempt(PROMOTE_UPTODATE)
            elif code is Code.TWO_PRIMARIES and tries.pop("two-primaries", 0):
                # The peer may be about to be found dead.
                wait = self._ctx.resource.net.ping_timeout * TENTH_NS + TENTH_NS
                self._ctx.timers.set(("promote", volume.number), wait, lambda: attempt(wish))
            elif code < Code.SUCCESS:
                then(refusal(code))
            else:
                self._promoted(volume, wish is PROMOTE_UPTODATE, then)

        if volume.state.conn >= ConnState.CONNECTED:
            self._ctx.peer.ping()
        attempt(PROMOTE)

    def _promoted(self, volume: Volume, forced: bool, then: Then) -> None:
        """We are Primary: generation and mark durable, then clients are served."""
        if forced:
            self._ctx.tell(
                Level.WARNING, "Forced to consider local data as UpToDate!", volume.number
            )
        volume.discard_my_data = False
        self._ctx.discard_my_data = False
        if volume.meta is None:
            self._serve(volume, forced, then)
            return
        rotation = rotation_at_promotion(volume.state, volume.uuids, forced=forced)
        before = volume.uuids
        volume.uuids = rotated(
            volume.uuids, rotation, self._ctx.random_u64(), primary=True
        ).with_role(primary=True)
        volume.exposed_uuid = volume.uuids.current
        renewed = (before.current | 1) != (volume.uuids.current | 1)
        if renewed:
            self._ctx.tell(Level.INFO, f"new current UUID {volume.uuids}", volume.number)

        def durable(ok: bool) -> None:
            if ok:
                self._serve(volume, forced or renewed, then)
            else:
                then(Answer(10, "IO error(s) occurred writing the superblock", 118))

        volume.meta.sync(durable)

    def _serve(self, volume: Volume, tell_uuids: bool, then: Then) -> None:
        volume.serving = volume.primary
        if self._ctx.peer.up and volume.state.conn >= ConnState.WF_REPORT_PARAMS:
            if tell_uuids:
                send_uuids(self._ctx, volume)
            send_state(self._ctx, volume)
        then(Answer())

    def _secondary(self, volume: Volume, command: Command, then: Then) -> None:
        """Become Secondary: no client, nothing in flight, everything the peer has is for good."""
        if not volume.primary:
            then(Answer())
            return
        if volume.open_count:
            then(refusal(Code.DEVICE_IN_USE))
            return
        volume.serving = False

        def idle() -> bool:
            if not self._writes.idle(volume):
                return False
            self._demote(volume, then)
            return True

        self._ctx.when(idle)

    def _demote(self, volume: Volume, then: Then) -> None:
        code = self._ctx.states.propose(
            volume, volume.state.but(role=Role.SECONDARY), "administrator"
        )
        if code < Code.SUCCESS:
            volume.serving = volume.primary
            then(refusal(code))
            return
        volume.uuids = volume.uuids.with_role(primary=False)
        meta = volume.meta

        def durable(ok: bool) -> None:
            if volume.state.conn >= ConnState.CONNECTED:
                send_state(self._ctx, volume)
            then(Answer())

        if meta is None or not volume.has_disk:
            durable(True)
        else:
            meta.write_bitmap(lambda ok: meta.sync(durable))

    # -- connection ---------------------------------------------------------------------------

    def _connect(self, command: Command, then: Then) -> None:
        if self._ctx.resource.peer is None:
            then(Answer(20, f"resource {self._ctx.resource.name}: no peer is configured", 0))
            return
        if self._ctx.states.connection is not ConnState.STANDALONE:
            then(Answer(10, "Device has a net-config (use disconnect first)", 125))
            return
        discard = bool(command.options.get("discard_my_data"))
        if discard and any(v.primary for v in self._ctx.volumes.values()):
            then(
                Answer(
                    10,
                    "--discard-my-data not allowed when primary: make this node secondary first",
                    123,
                )
            )
            return
        self._ctx.discard_my_data = discard
        self._connection.start("administrator")
        then(Answer())

    def _disconnect(self, command: Command, then: Then) -> None:
        connection = self._ctx.states.connection
        if connection is ConnState.STANDALONE:
            then(
                Answer(10, "Invalid configuration request: unknown connection, not connected", 162)
            )
            return
        if not command.options.get("force"):
            for volume in self._ctx.volumes.values():
                wanted = volume.state.but(conn=ConnState.DISCONNECTING)
                code = self._ctx.states.judge(volume, wanted)
                if isinstance(code, Code) and code is not Code.IN_TRANSIENT_STATE:
                    then(refusal(code))
                    return

        def alone(why: str) -> None:
            self._connection.stand_alone(why)

            def standing() -> bool:
                if self._ctx.states.connection is not ConnState.STANDALONE:
                    return False
                then(Answer())
                return True

            self._ctx.when(standing)

        def answered(code: Code) -> None:
            if code >= Code.SUCCESS:
                alone("disconnected")
            elif code is Code.CW_FAILED_BY_PEER:
                then(refusal(code))
            else:
                self._ctx.timers.set("leave", SECOND_NS, lambda: self._disconnect(command, then))

        if connection is ConnState.WF_REPORT_PARAMS and not command.options.get("force"):
            self._requests.leave(DISCONNECT, answered)
        else:
            alone("disconnected")

    # -- resync -------------------------------------------------------------------------------

    def _invalidate(self, volume: Volume, command: Command, then: Then) -> None:
        state = volume.state
        if state.conn is ConnState.STANDALONE and state.role is Role.SECONDARY:
            if volume.meta is None or not volume.has_disk:
                then(Answer(10, "Device does not have a disk-config", 138))
                return
            self._ctx.states.force(volume, "invalidate", disk=DiskState.INCONSISTENT)
            volume.meta.set_all(
                lambda ok: then(Answer() if ok else Answer(10, "writing the bitmap failed", 118))
            )
            return
        self._retrying(volume, INVALIDATE, lambda code: then(outcome(code)))

    def _invalidate_remote(self, volume: Volume, command: Command, then: Then) -> None:
        self._retrying(volume, INVALIDATE_REMOTE, lambda code: then(outcome(code)))

    def _outdate(self, volume: Volume, command: Command, then: Then) -> None:
        wanted = volume.state.but(disk=DiskState.OUTDATED)
        code = self._ctx.states.propose(volume, wanted, "outdate")
        if code < Code.SUCCESS or volume.meta is None:
            then(outcome(code))
        else:
            volume.meta.sync(lambda ok: then(outcome(code)))

    def _pause(self, volume: Volume, command: Command, then: Then) -> None:
        if volume.state.user_isp:
            then(Answer(10, "Sync-pause flag is already set", 134))
            return
        then(outcome(self._ctx.states.force(volume, "pause-sync", user_isp=True)))

    def _resume(self, volume: Volume, command: Command, then: Then) -> None:
        if not volume.state.user_isp:
            then(Answer(10, "Sync-pause flag is already cleared", 135))
            return
        then(outcome(self._ctx.states.force(volume, "resume-sync", user_isp=False)))

    # -- waiting ------------------------------------------------------------------------------

    def _wait_connect(self, command: Command) -> None:
        self._wait(command, lambda conn: conn >= ConnState.CONNECTED, "connected")

    def _wait_sync(self, command: Command) -> None:
        self._wait(command, lambda conn: conn is ConnState.CONNECTED, "in sync")

    def _wait(self, command: Command, good: Callable[[ConnState], bool], what: str) -> None:
        """Done when all volumes are there, or gave up (StandAlone); exit 5 when time runs out."""
        name = ("wait", command.number)
        timeout = command.options.get("timeout_s") or 0
        assert isinstance(timeout, int | float)
        after_sb = bool(command.options.get("wait_after_sb"))
        over: list[bool] = []

        def there() -> bool:
            if over:
                return True
            conns = [v.state.conn for v in self._volumes(command)]
            gave_up = any(c < ConnState.UNCONNECTED for c in conns) and not after_sb
            if not gave_up and not all(good(conn) for conn in conns):
                return False
            self._ctx.timers.cancel(name)
            self._ctx.answer(command, Answer())
            return True

        def late() -> None:
            over.append(True)
            self._ctx.answer(command, Answer(5, f"timed out: not {what} after {timeout:g} s", 0))

        if timeout:
            self._ctx.timers.set(name, int(timeout * SECOND_NS), late)
        self._ctx.when(there)
