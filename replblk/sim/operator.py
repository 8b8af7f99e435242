"""The cluster manager with perfect fencing: who is promoted, who is started again, and when.

It knows which machines hold every acknowledged write (``holders``): what the Primary itself
believed of its peer when it last said anything. Only a holder is promoted, and only while the other
is dead or Secondary; a Primary that answers nobody is powered off first. So no data may ever be
lost and no split brain may ever arise under this operator, whatever the faults.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from replblk.model.vocabulary import ConnState, DiskState, Role
from replblk.sim.world import MILLI_NS, SECOND_NS, SimulationError

if TYPE_CHECKING:
    from replblk.engine.ports import Answer
    from replblk.model.notices import StateChanged
    from replblk.model.state import State
    from replblk.sim.client import Client
    from replblk.sim.links import Network
    from replblk.sim.machine import Life, Machine

COMMAND_LIMIT_NS = 200 * SECOND_NS
"""A command that has no answer by then will never have one (I12)."""
FENCE_AFTER_NS = 3 * SECOND_NS
REPAIR_AFTER_NS = 2 * SECOND_NS


class Operator:
    """Keeps one node Primary and its clients served, as well as the faults allow."""

    def __init__(self, network: Network, clients: list[Client], poll_ns: int) -> None:
        self._network = network
        self._world = network.world
        self._machines = network.machines
        self._clients = clients
        self._poll_ns = poll_ns
        self._chance = self._world.chance("operator")
        self._held = dict.fromkeys(
            self._machines[0].drives, frozenset(m.name for m in self._machines)
        )
        """Who has everything that was acknowledged, by volume."""
        self.wants_switchover = False
        self.healing = False
        self.serving = True
        """Clients are wanted: False once the run only waits for peace."""
        self.patience_ns = 0
        """Nobody is promoted before the pair is connected, or this time is over."""
        self.stopped = False
        """Somebody else gives the commands now."""
        self.force_first: str | None = None
        """The machine whose fresh data are to be made the truth by a forced promotion."""
        self.skip_first: str | None = None
        """The machine on which fresh nodes that hold the same are told to skip the first sync."""
        self.before_boot: Callable[[Machine], None] | None = None
        self.on_promoted: Callable[[Machine], None] | None = None
        self.hand_over: Callable[[Machine, Callable[[Machine], None]], None] | None = None
        """Moves the role from a Primary by a command of its own, and tells who has it then."""
        self._busy: tuple[Machine, Life, str, int] | None = None
        self._away: dict[str, int] = {}
        """Machines disconnected on purpose, and until when."""
        self._ready: dict[str, Life] = {}
        """Machines whose ``up`` was answered."""
        self._since: dict[str, int] = {}
        """Since when a machine has been paused or diskless."""
        self._next_primary: str | None = None
        for machine in self._machines:
            machine.on_state.append(self._on_state)
            machine.on_death.append(self._on_death)

    # -- starting -----------------------------------------------------------------------------

    def start(self) -> None:
        """Boot both machines and begin to look after them."""
        for machine in self._machines:
            self._boot(machine, machine.lives)
        self._world.after(self._poll_ns, self._poll)

    def bring_back(self, machine: Machine, delay_ns: int) -> None:
        """Start the machine again after a while."""
        self._world.after(max(delay_ns, MILLI_NS), self._boot, machine, machine.lives)

    def _boot(self, machine: Machine, lives: int) -> None:
        if machine.alive or machine.lives != lives:
            return
        if self.before_boot is not None:
            self.before_boot(machine)
        machine.boot()
        life = machine.life
        assert life is not None
        self._away.pop(machine.name, None)
        machine.command("up", lambda answer: self._is_up(machine, life, answer))

    def _is_up(self, machine: Machine, life: Life, answer: Answer) -> None:
        self._ready[machine.name] = life

    def take_over(self) -> None:
        """Machines run and are up without our doing: look after them from now on."""
        self._ready = {m.name: m.life for m in self._machines if m.life is not None}
        self.stopped = False

    # -- commands -----------------------------------------------------------------------------

    def command(
        self,
        machine: Machine,
        verb: str,
        then: Callable[[Answer], None],
        volume: int | None = None,
        **options: object,
    ) -> None:
        """Give a command and wait for its end before giving the next."""
        assert self._busy is None
        assert machine.life is not None
        self._busy = (machine, machine.life, verb, self._world.now_ns)

        def answered(answer: Answer) -> None:
            self._busy = None
            self._world.after(0, then, answer)

        machine.command(verb, answered, volume, **options)

    def disconnect(self, machine: Machine, duration_ns: int) -> None:
        """Disconnect on purpose; the node is connected again after *duration_ns*."""
        if not self.free(machine) or machine.connection is ConnState.STANDALONE:
            return
        self._away[machine.name] = self._world.now_ns + duration_ns
        self.command(machine, "disconnect", self._nothing, force=self._chance.random() < 0.3)

    def restart(self, machine: Machine) -> None:
        """Take a Secondary down and start it again."""
        if not self.free(machine) or machine.serving_role is Role.PRIMARY:
            return
        life = machine.life

        def down(answer: Answer) -> None:
            if machine.life is life and answer.exit_code == 0:
                self._world.mark("taken down and up")
                machine.kill()
            self.bring_back(machine, 100 * MILLI_NS)

        self.command(machine, "down", down)

    @property
    def idle(self) -> bool:
        """No command is under way."""
        return self._busy is None

    def free(self, machine: Machine) -> bool:
        """Whether a command may be given to that machine now."""
        ready = machine.alive and self._ready.get(machine.name) is machine.life
        return self._busy is None and ready and not machine.paused

    def _nothing(self, answer: Answer) -> None:
        """Nothing depends on how it ended."""

    # -- who holds everything -----------------------------------------------------------------

    def _on_state(self, machine: Machine, change: StateChanged) -> None:
        if machine.serving_role is Role.PRIMARY:
            self.primary_said(machine)
            return
        if all(m.settled for m in self._machines):
            self.holders = frozenset(m.name for m in self._machines)

    def primary_said(self, machine: Machine, volume: int = 0) -> None:
        """The Primary announced a state or acknowledged a write: who has its data, it thinks.

        With nobody left who has a volume, whoever had it last has it still.
        """
        other = self._network.other(machine).name
        for number, state in machine.states.items():
            holds = {machine.name} if state.disk is DiskState.UP_TO_DATE else set()
            if state.conn >= ConnState.CONNECTED and state.pdsk is DiskState.UP_TO_DATE:
                holds.add(other)
            if holds:
                self._held[number] = frozenset(holds)

    @property
    def holders(self) -> frozenset[str]:
        """The machines that have all volumes; none, if each has one that the other lacks."""
        return frozenset.intersection(*self._held.values())

    @holders.setter
    def holders(self, names: frozenset[str]) -> None:
        self._held = dict.fromkeys(self._held, names)

    def _on_death(self, machine: Machine) -> None:
        self._ready.pop(machine.name, None)
        self._since.pop(machine.name, None)
        if self._busy is not None and self._busy[0] is machine:
            self._busy = None

    # -- looking after them -------------------------------------------------------------------

    def _poll(self) -> None:
        self._world.after(self._poll_ns, self._poll)
        if self.stopped:
            return
        if self._busy is not None:
            machine, _, verb, since = self._busy
            if self._world.now_ns - since > COMMAND_LIMIT_NS and not machine.paused:
                raise SimulationError(f"I12: {verb!r} on {machine} was never answered")
            self._fence_if_stuck()
            if verb == "switchover" and self._has_no_data(machine):
                self._reattach(machine)
            return
        self._repair()
        if self._busy is not None:
            return
        primaries = [m for m in self._machines if m.serving_role is Role.PRIMARY]
        if not primaries:
            self._promote_somebody()
            return
        primary = primaries[0]
        if self.wants_switchover and not self.healing and self.free(primary):
            self._switch_over(primary)
            return
        self._serve(primary)
        self._fence_if_stuck()

    def _promote_somebody(self) -> None:
        if self._world.now_ns < self.patience_ns and not all(
            m.all_volumes(conn=ConnState.CONNECTED) for m in self._machines
        ):
            return
        able = [m for m in self._machines if self.free(m) and self._may_promote(m)]
        if self.skip_first is not None:
            self._skip_first_sync(self.skip_first)
            return
        force = self.force_first is not None
        if force:
            able = [m for m in self._machines if m.name == self.force_first and self.free(m)]
        if not able:
            return
        chosen = next((m for m in able if m.name == self._next_primary), None)
        machine = chosen or self._chance.choice(able)
        self._next_primary = None

        def promoted(answer: Answer) -> None:
            if answer.exit_code == 0 and machine.serving_role is Role.PRIMARY:
                self._promoted(machine)

        self.command(machine, "primary", promoted, force=force)

    def _promoted(self, machine: Machine) -> None:
        self._world.mark("promoted")
        self.force_first = None
        if self.on_promoted is not None:
            self.on_promoted(machine)
        self._serve(machine)

    def _skip_first_sync(self, name: str) -> None:
        machine = next(m for m in self._machines if m.name == name)
        fresh = all(
            m.all_volumes(conn=ConnState.CONNECTED, disk=DiskState.INCONSISTENT)
            for m in self._machines
        )
        if not fresh or not self.free(machine):
            return

        def skipped(answer: Answer) -> None:
            if answer.exit_code == 0:
                self._world.mark("first sync skipped")
                self.skip_first = None

        self.command(machine, "new-current-uuid", skipped, clear_bitmap=True)

    def _may_promote(self, machine: Machine) -> bool:
        """Whether it, or a peer that it is connected to, has everything that was acknowledged."""
        if machine.name in self.holders and machine.up_to_date:
            return True
        other = self._network.other(machine)
        return (
            other.name in self.holders
            and all(
                s.conn >= ConnState.CONNECTED and s.pdsk is DiskState.UP_TO_DATE
                for s in machine.states.values()
            )
            # What one node believes of the connection may be old news: ask both.
            and all(s.conn >= ConnState.CONNECTED for s in other.states.values())
        )

    def _serve(self, primary: Machine) -> None:
        if not self.serving or not primary.alive or primary.paused or primary.sent_away:
            return
        for client in self._clients:
            if client.machine is None:
                client.start(primary)

    def _switch_over(self, primary: Machine) -> None:
        self.wants_switchover = False
        if self.hand_over is not None:
            self.hand_over(primary, self._promoted)
            return
        self._next_primary = self._network.other(primary).name
        life = primary.life
        assert life is not None
        self._busy = (primary, life, "switchover", self._world.now_ns)
        left = len(self._clients)

        def stopped() -> None:
            nonlocal left
            left -= 1
            if left:
                return
            if primary.life is life and self._busy and self._busy[1] is life:
                self._busy = None
                if not primary.paused and primary.serving_role is Role.PRIMARY:
                    self._world.mark("demoted")
                    self.command(primary, "secondary", self._nothing)

        for client in self._clients:
            client.stop(stopped)

    def _fence_if_stuck(self) -> None:
        """Power off a Primary that has been stopped for long; then the other may be promoted."""
        for machine in self._machines:
            key = f"paused {machine.name}"
            if not machine.paused:
                self._since.pop(key, None)
                continue
            since = self._since.setdefault(key, self._world.now_ns)
            if self._world.now_ns - since > FENCE_AFTER_NS:
                self._world.mark("fenced")
                machine.power_off()
                self.bring_back(machine, SECOND_NS)

    def _repair(self) -> None:
        """Connect what fell StandAlone, attach what lost its disk, start what is dead."""
        now = self._world.now_ns
        for machine in self._machines:
            if not machine.alive:
                if self.healing:
                    self._boot(machine, machine.lives)
                continue
            if not self.free(machine):
                continue
            if any(_needs_repair(s) for s in machine.states.values()):
                since = self._since.setdefault(machine.name, now)
                if now - since > REPAIR_AFTER_NS:
                    self._since.pop(machine.name, None)
                    self._reattach(machine)
                    return
            else:
                self._since.pop(machine.name, None)
            if machine.connection is ConnState.STANDALONE and (
                self.healing or self._away.get(machine.name, 0) <= now
            ):
                self._away.pop(machine.name, None)
                self.command(machine, "connect", self._nothing, discard_my_data=False)
                return

    def _has_no_data(self, machine: Machine) -> bool:
        """Whether its I/O has been suspended for want of data for long: nobody will ever close."""
        key = f"suspended {machine.name}"
        if not any(state.susp_nod for state in machine.states.values()):
            self._since.pop(key, None)
            return False
        since = self._since.setdefault(key, self._world.now_ns)
        return self._world.now_ns - since > REPAIR_AFTER_NS

    def _reattach(self, machine: Machine) -> None:
        """The drive was mended: a Secondary is restarted, a Primary killed and started again."""
        for drive in machine.drives.values():
            drive.heal()
        self._world.mark("disk mended after a failure")
        machine.kill()
        self.bring_back(machine, 200 * MILLI_NS)


def _needs_repair(state: State) -> bool:
    """Whether a disk is gone, or bad since an error was passed on and nothing will mend it."""
    passed_on = (
        state.conn is ConnState.CONNECTED
        and state.disk is DiskState.INCONSISTENT
        and state.pdsk is DiskState.UP_TO_DATE
    )
    return state.disk is DiskState.DISKLESS or passed_on
