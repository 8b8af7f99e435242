"""The administrator's commands, one after the other; waiting ones beside them.

Each ends in one answer: DRBD's code and sentence, and what to do. A change refused because the
state is just moving (-18) is tried again when it has moved.
"""

from __future__ import annotations

import errno as errnos
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from replblk.engine.answers import outcome, refusal, unknown_algorithm
from replblk.engine.context import SECOND_NS
from replblk.engine.disconnecting import Disconnect
from replblk.engine.disk_failure import lose_disk
from replblk.engine.new_current_uuid import NewCurrentUuid
from replblk.engine.ports import Answer, Command
from replblk.engine.resume import resumption
from replblk.model.state import State
from replblk.model.vocabulary import Code, ConnState, DiskState, Role
from replblk.rules.transitions import INVALIDATE, INVALIDATE_REMOTE, VERIFY

if TYPE_CHECKING:
    from replblk.engine.attach import Attach
    from replblk.engine.connection import Connection
    from replblk.engine.context import Context
    from replblk.engine.detaching import Detaching
    from replblk.engine.fencing import PeerFencing
    from replblk.engine.handover import Handover
    from replblk.engine.role_change import RoleChange
    from replblk.engine.sizes import DeviceSize
    from replblk.engine.state_change import StateRequests
    from replblk.engine.verify import Verify
    from replblk.engine.volume import Volume

Then = Callable[[Answer], None]
_ABOUT_THE_ROLE = ("primary", "secondary", "switchover", "down", "disconnect", "detach")


class Commands:
    """Runs commands against the paths it is given."""

    def __init__(
        self,
        ctx: Context,
        *,
        attach: Attach,
        connection: Connection,
        requests: StateRequests,
        roles: RoleChange,
        verify: Verify,
        sizes: DeviceSize,
        fencing: PeerFencing,
        handover: Handover,
        detaching: Detaching,
    ) -> None:
        self._ctx = ctx
        self._attach = attach
        self._connection = connection
        self._requests = requests
        self._roles = roles
        self._verify = verify
        self._fencing = fencing
        self._disconnect = Disconnect(ctx, connection, requests)
        self._handover = handover
        self._detaching = detaching
        handover.give, handover.resume = self._give, self._resume_when_safe
        self._queue: deque[tuple[Command, Then]] = deque()
        self._running: Command | None = None
        self._verbs: dict[str, Callable[[Command, Then], None]] = {
            "up": self._up,
            "down": self._down,
            "connect": self._connect,
            "disconnect": self._disconnect.run,
            "attach": self._each(self._attach_one),
            "detach": self._each(self._detach_one),
            "primary": self._each(roles.primary),
            "secondary": self._each(roles.secondary),
            "switchover": self._switch_over,
            "hand-over": self._each(handover.hand_over),
            "take-over": self._each(handover.promote),
            "invalidate": self._each(self._invalidate),
            "invalidate-remote": self._each(self._invalidate_remote),
            "verify": self._each(self._start_verify),
            "resize": self._each(sizes.resize),
            "new-current-uuid": self._each(NewCurrentUuid(ctx).run),
            "outdate": self._each(self._outdate),
            "pause-sync": self._each(self._pause),
            "resume-sync": self._each(self._resume),
            "suspend-io": self._each(self._suspend_io),
            "resume-io": self._each(self._resume_io),
        }
        self._waits = {
            "wait-connect": self._wait_connect,
            "wait-sync": self._wait_sync,
            "resume": self._resume_role,
        }
        self._own_verbs = frozenset({"hand-over", "take-over"})
        """Not an administrator's; their peer gives them, by what it says."""
        self._resuming: set[int] = set()

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
        elif command.verb == "switchover" and not command.options.get("to_peer"):
            # It waits for the peer, and is promoted in its turn, beside this.
            self._each(self._handover.take_over)(command, partial(self._ctx.answer, command))
        elif command.verb not in self._verbs or command.verb in self._own_verbs:
            self._ctx.answer(command, Answer(1, f"Unknown command '{command.verb}'", 0))
        else:
            if command.verb in _ABOUT_THE_ROLE:
                # The administrator decides about the role himself.
                self._resuming -= {volume.number for volume in self._volumes(command)}
            self._queue.append((command, partial(self._ctx.answer, command)))
            self._next()

    def _give(self, verb: str, volume: Volume, then: Then) -> None:
        """A command of our own, in its turn."""
        self._queue.append((Command(0, verb, volume.number, {"with_peer": True}), then))
        self._ctx.defer(self._next)

    def _next(self) -> None:
        if self._running is not None or not self._queue:
            return
        command, then = self._queue.popleft()
        self._running = command

        def done(answer: Answer) -> None:
            self._running = None
            then(answer)
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
            said: list[str] = []

            def step(answer: Answer) -> None:
                volume = next(left, None)
                if answer.text:
                    said.append(answer.text)
                if answer.exit_code or volume is None:
                    then(replace(answer, text="\n".join(said)))
                else:
                    one(volume, command, step)

            step(Answer())

        return run

    def _switch_over(self, command: Command, then: Then) -> None:
        """Hand the Primary role of all volumes over, or of none."""
        if why := self._handover.hinders(self._volumes(command)):
            then(Answer(11, why, 0))
        else:
            self._each(self._handover.hand_over)(command, then)

    # -- up and down --------------------------------------------------------------------------

    def _up(self, command: Command, then: Then) -> None:
        """Attach every disk, then connect; a disk that can't be attached does not stop the rest.

        What is up already stays as it is.
        """
        failures: list[Answer] = []
        left = iter(v for v in self._volumes(command) if v.state.disk is DiskState.DISKLESS)

        def step(answer: Answer | None) -> None:
            if answer is not None and answer.exit_code:
                failures.append(answer)
            volume = next(left, None)
            if volume is not None:
                self._attach.attach(volume, step)
                return
            unknown = unknown_algorithm(self._ctx.net)
            if unknown is not None:
                failures.append(unknown)
            elif self._ctx.resource.peer is not None and (
                self._ctx.states.connection is ConnState.STANDALONE
            ):
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
                self._disconnect.run(command, disconnected)

        def disconnected(answer: Answer) -> None:
            if answer.exit_code:
                then(answer)
            else:
                self._each(self._detach_quietly)(command, then)

        self._each(self._roles.secondary)(command, demoted)

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

    def _await_diskless(self, volume: Volume, then: Then, *, at_most_ns: int = 0) -> None:
        """Answer when the disk is gone, or after at_most_ns if its operations do not end."""
        name, over = ("diskless", volume.number), False

        def diskless() -> bool:
            nonlocal over
            if not over and volume.state.disk is DiskState.DISKLESS:
                over = True
                self._ctx.timers.cancel(name)
                then(Answer())
            return over

        def late() -> None:
            nonlocal over
            over = True
            then(
                Answer(
                    0,
                    f"given up; {volume.config.disk} has {volume.in_flight} operations that do not "
                    "end, and is closed when they do",
                )
            )

        if at_most_ns:
            self._ctx.timers.set(name, at_most_ns, late)
        self._ctx.when(diskless)

    # -- disks --------------------------------------------------------------------------------

    def _attach_one(self, volume: Volume, command: Command, then: Then) -> None:
        self._attach.attach(volume, then)

    def _detach_one(self, volume: Volume, command: Command, then: Then) -> None:
        if volume.state.disk is DiskState.DISKLESS:
            then(Answer())
            return
        if command.options.get("force"):
            lose_disk(self._ctx, volume, "detach --force")
            self._ctx.io.abort(volume, errnos.ESHUTDOWN)
            self._await_diskless(volume, then, at_most_ns=SECOND_NS)
            return

        def answered(code: Code) -> None:
            if code >= Code.SUCCESS:
                self._await_diskless(volume, then)
            else:
                then(refusal(code))

        self._detaching.run(volume, answered)

    # -- connection ---------------------------------------------------------------------------

    def _connect(self, command: Command, then: Then) -> None:
        unknown = unknown_algorithm(self._ctx.net)
        if unknown is not None:
            then(unknown)
            return
        if self._ctx.resource.peer is None:
            then(Answer(20, f"resource {self._ctx.resource.name}: no peer is configured", 0))
            return
        if self._ctx.states.connection is not ConnState.STANDALONE:
            then(Answer(10, "Local address(port) already in use", 102))
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
        for volume in self._ctx.volumes.values():
            # Counted since this command, as the kernel does; a broken connection goes on counting.
            volume.sent_sectors = volume.received_sectors = 0
        self._ctx.discard_my_data = discard
        self._connection.start("administrator")
        then(Answer())

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
        self._requests.retrying(volume, INVALIDATE, lambda code: then(outcome(code)))

    def _invalidate_remote(self, volume: Volume, command: Command, then: Then) -> None:
        self._requests.retrying(volume, INVALIDATE_REMOTE, lambda code: then(outcome(code)))

    def _start_verify(self, volume: Volume, command: Command, then: Then) -> None:
        for name, places in (
            ("start", self._verify.start_sector),
            ("stop", self._verify.stop_sector),
        ):
            at = command.options.get(name)
            if at is not None:
                assert isinstance(at, int)
                places[volume.number] = at
        self._requests.retrying(volume, VERIFY, lambda code: then(outcome(code)))

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

    # -- suspended I/O ------------------------------------------------------------------------

    def _suspend_io(self, volume: Volume, command: Command, then: Then) -> None:
        then(outcome(self._ctx.states.force(volume, "suspend-io", susp=True)))

    def _resume_io(self, volume: Volume, command: Command, then: Then) -> None:
        """Whatever held I/O up holds it no longer: it goes on with what data there is."""

        def known() -> bool:
            if volume.state.disk is DiskState.NEGOTIATING:
                return False  # what is frozen may go to the peer: it is not known yet who has what
            self._fencing.thaw(volume, "resume-io", susp=False, susp_nod=False, susp_fen=False)
            then(Answer())
            return True

        self._ctx.when(known)

    # -- waiting ------------------------------------------------------------------------------

    def _wait_connect(self, command: Command) -> None:
        self._wait(command, lambda state: state.conn >= ConnState.CONNECTED, "connected")

    def _wait_sync(self, command: Command) -> None:
        self._wait(command, _at_rest, "in sync")

    def _resume_role(self, command: Command) -> None:
        """Become Primary again as soon as that is safe; the answer comes when it is decided."""
        (volume,) = self._volumes(command)
        self._resume_when_safe(volume, partial(self._ctx.answer, command))

    def _resume_when_safe(self, volume: Volume, then: Then) -> None:
        has_peer = self._ctx.resource.peer is not None
        self._resuming.add(volume.number)

        def decided() -> bool:
            if volume.number not in self._resuming:
                why: str | None = "an administrator's command came first"
            else:
                why = resumption(volume, has_peer=has_peer)
            if why is None:
                return False
            self._resuming.discard(volume.number)
            if why:
                text = f"was Primary and stays {volume.state.role}: {why}"
                then(Answer(11, text, 0))
            else:
                self._queue.append((Command(0, "primary", volume.number, {}), then))
                self._ctx.defer(self._next)
            return True

        self._ctx.when(decided)

    def _wait(self, command: Command, good: Callable[[State], bool], what: str) -> None:
        """Done when all volumes are there, or gave up (StandAlone); exit 5 when time runs out."""
        name = ("wait", command.number)
        timeout = command.options.get("timeout_s") or 0
        assert isinstance(timeout, int | float)
        after_sb = bool(command.options.get("wait_after_sb"))
        over: list[bool] = []

        def there() -> bool:
            if over:
                return True
            states = [volume.state for volume in self._volumes(command)]
            gave_up = any(s.conn < ConnState.UNCONNECTED for s in states) and not after_sb
            if not gave_up and not all(good(state) for state in states):
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


def _at_rest(state: State) -> bool:
    """Connected, and no resync is about to begin: not exactly one disk is Inconsistent."""
    bad = DiskState.INCONSISTENT
    return state.conn is ConnState.CONNECTED and (state.disk is bad) is (state.pdsk is bad)
