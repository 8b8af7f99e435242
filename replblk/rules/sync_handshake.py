"""The decision at connect or attach: who is sync source, by bitmap or whole, or why nobody is.

UUID comparison, disk states, after-sb policies, discard-my-data and rr-conflict, in DRBD's order.
Both nodes decide by themselves from mirrored facts. ``conn`` None means *no decision*: the
connection goes to StandAlone (or only the attaching disk fails), and ``reason`` tells the
administrator what to do.

Where this is more careful than DRBD 8.4, in ways a DRBD peer can live with:

* a split brain known only from history (-100) that was solved by hand is a full sync: no bitmap is
  known to cover both nodes' changes.
* a Primary that is the victim by policy and can't give up its role takes no part: the peer, by the
  same policy, is source already, so discard-my-data must not make this node another one.
* UUID sets on which the two nodes could not agree are refused instead of making two targets.
* equal generations with bits set are resynced by bitmap, if the peer is known to decide so too
  (``peer_resyncs_leftover``); otherwise the bits stay and the log says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from replblk.model.generation import same_generation
from replblk.model.notices import Level
from replblk.model.vocabulary import ConnState, DiskState, Policy, Role
from replblk.rules.split_brain import Conflict, Fate, Policies, resolve
from replblk.rules.uuid_compare import Outcome, Side, Verdict, compare


@dataclass(frozen=True, slots=True, kw_only=True)
class HandshakeFacts:
    """Everything the decision rests on.

    own_disk: our disk; if Negotiating, the state it would get. peer_disk: the peer's as reported;
    if Negotiating, Inconsistent or Consistent by its P_UUIDS flag. own_current_disk: our disk as it
    is now. own_changes, peer_changes: out-of-sync bits as exchanged in P_UUIDS. can_demote: the
    device is not held open. dry_run: ours or announced by the peer.
    """

    own: Side
    peer: Side
    own_disk: DiskState
    peer_disk: DiskState
    own_role: Role
    peer_role: Role
    own_current_disk: DiskState
    resolves_conflicts: bool
    apv: int = 101
    wsame: bool = True
    own_discard: bool = False
    peer_discard: bool = False
    own_changes: int = 0
    peer_changes: int = 0
    policies: Policies = field(default_factory=Policies)
    always_asbp: bool = False
    rr_conflict: Policy = Policy.DISCONNECT
    dry_run: bool = False
    can_demote: bool = False
    peer_resyncs_leftover: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What the volume does next.

    conn: WFBitMapS, WFBitMapT, Connected, or None for no decision. set_all_bits: durably, first.
    handlers: to be called, in order. log: DRBD's lines. reason: a sentence for the administrator.
    split_brain: there is one, and it is unresolved. demote: become Secondary before anything else.
    leftover: the resync is for bits that no generation explains.
    """

    verdict: Verdict
    conn: ConnState | None
    set_all_bits: bool = False
    handlers: tuple[str, ...] = ()
    log: tuple[tuple[Level, str], ...] = ()
    reason: str = ""
    split_brain: bool = False
    demote: bool = False
    leftover: bool = False


_SPLIT: Final = frozenset({Outcome.SPLIT_BRAIN, Outcome.SPLIT_BRAIN_AMBIGUOUS})
_SOURCE: Final = frozenset({Outcome.SOURCE_BITMAP, Outcome.SOURCE_FULL})
_TARGET: Final = frozenset({Outcome.TARGET_BITMAP, Outcome.TARGET_FULL})
_FULL: Final = frozenset({Outcome.SOURCE_FULL, Outcome.TARGET_FULL})


def decide(facts: HandshakeFacts) -> Decision:
    """The sync handshake of one volume, as seen from this node."""
    own, peer = facts.own, facts.peer
    verdict = compare(
        own,
        peer,
        resolves_conflicts=facts.resolves_conflicts,
        apv=facts.apv,
        wsame=facts.wsame,
    )
    handshake = _Handshake(facts, verdict)
    mirrored = compare(
        peer,
        own,
        resolves_conflicts=not facts.resolves_conflicts,
        apv=facts.apv,
        wsame=facts.wsame,
    )
    if mirrored.outcome != verdict.outcome.mirrored:
        handshake.say(Level.ERROR, "The generation UUIDs contradict each other, aborting!")
        return handshake.refused(
            "The generation UUIDs of the two nodes contradict each other (each side looks older "
            "than the other), so nobody can be trusted as sync source. Find out which node has the "
            "good data, run create-md on the other one and connect again."
        )
    return handshake.decided()


class _Handshake:
    """One decision in the making: what was said and which handlers are due so far."""

    def __init__(self, facts: HandshakeFacts, verdict: Verdict) -> None:
        self._facts = facts
        self._verdict = verdict
        self._log: list[tuple[Level, str]] = []
        self._handlers: list[str] = []
        self._demote = False
        self._stuck = False
        self._leftover = False
        f = facts
        self.say(Level.INFO, "drbd_sync_handshake:")
        self.say(Level.INFO, _side_line("self", f.own, f.own_changes, discard=f.own_discard))
        self.say(Level.INFO, _side_line("peer", f.peer, f.peer_changes, discard=f.peer_discard))
        self.say(Level.INFO, f"uuid_compare()={verdict.number} by rule {verdict.rule}")

    def say(self, level: Level, text: str) -> None:
        self._log.append((level, text))

    def refused(self, reason: str, *, split_brain: bool = False) -> Decision:
        """No decision."""
        return Decision(
            verdict=self._verdict,
            conn=None,
            handlers=tuple(self._handlers),
            log=tuple(self._log),
            reason=reason,
            split_brain=split_brain,
        )

    def decided(self) -> Decision:
        """Steps 1 to 11 of the sync handshake."""
        outcome = self._verdict.outcome
        if outcome == Outcome.UNRELATED:  # step 1
            self.say(Level.ERROR, "Unrelated data, aborting!")
            return self.refused(
                "The data of the two nodes have no generation in common: they were never in sync. "
                "Check that the right devices are paired; to give up one side's data, run "
                "create-md on it and connect again."
            )
        if outcome in (Outcome.NEEDS_NEWER_PEER, Outcome.NEEDS_PROTOCOL_91):
            need = (
                "protocol version 91"
                if outcome == Outcome.NEEDS_PROTOCOL_91
                else "protocol version 101 with feature WRITE_SAME"
            )
            self.say(Level.ERROR, f"To resolve this both sides have to support {need}")
            return self.refused(
                f"To find the direction of this resync both nodes need {need}. Upgrade the older "
                "node, or make both Secondary and connect again."
            )

        plan = self._by_disks(outcome)  # step 2
        if plan in _SPLIT:  # steps 3 to 6
            self._handlers.append("initial-split-brain")
            solved = self._by_policy(plan)
            if solved is None and not self._stuck:
                solved = self._by_hand()
            if solved is None:
                self._handlers.append("split-brain")
                self.say(Level.ERROR, "Split-Brain detected but unresolved, dropping connection!")
                return self.refused(
                    "Split brain: both nodes changed data since they last were in sync, and no "
                    "after-sb policy decides whose changes to give up. On the node whose changes "
                    "are to be lost: make it secondary, disconnect, and connect with "
                    "--discard-my-data; on the other: connect, if it is StandAlone.",
                    split_brain=True,
                )
            plan = solved
        elif plan == Outcome.NONE:
            plan = self._by_leftover_bits()

        return self._barred(plan) or self._granted(plan)

    def _by_disks(self, outcome: Outcome) -> Outcome:
        """Step 2: if exactly one side is Inconsistent, the other one is the source."""
        own, peer = self._facts.own_disk, self._facts.peer_disk
        bad = DiskState.INCONSISTENT
        if not ((own == bad and peer > bad) or (peer == bad and own > bad)):
            return outcome
        source = own > bad
        full = outcome in _FULL or outcome == Outcome.SPLIT_BRAIN_AMBIGUOUS
        self.say(
            Level.INFO, f"Becoming sync {'source' if source else 'target'} due to disk states."
        )
        return _sync(source=source, full=full)

    def _by_policy(self, split: Outcome) -> Outcome | None:
        """Step 4: the after-sb policies, for an ambiguous split only with always-asbp."""
        f = self._facts
        ambiguous = split == Outcome.SPLIT_BRAIN_AMBIGUOUS
        if ambiguous and not f.always_asbp:
            return None
        primaries = (f.own_role == Role.PRIMARY) + (f.peer_role == Role.PRIMARY)
        resolution = resolve(
            primaries,
            f.policies,
            Conflict(
                own_primary=f.own_role == Role.PRIMARY,
                own_older=bool(f.own.uuids.bitmap & 1),
                peer_older=bool(f.peer.uuids.bitmap & 1),
                own_changes=f.own_changes,
                peer_changes=f.peer_changes,
                resolves_conflicts=f.resolves_conflicts,
                can_demote=f.can_demote,
            ),
        )
        for warning in resolution.warnings:
            self.say(Level.WARNING, warning)
        self._handlers += resolution.handlers
        self._demote = resolution.demote
        self._stuck = resolution.stuck
        if resolution.fate == Fate.UNRESOLVED:
            return None
        source = resolution.fate == Fate.SURVIVOR
        self.say(
            Level.WARNING,
            f"Split-Brain detected, {primaries} primaries, automatically solved. "
            f"Sync from {'this' if source else 'peer'} node",
        )
        if ambiguous:
            self.say(Level.WARNING, "Doing a full sync, since UUIDs where ambiguous.")
        return _sync(source=source, full=ambiguous)

    def _by_hand(self) -> Outcome | None:
        """Step 5: exactly one node was connected with discard-my-data."""
        f = self._facts
        if f.own_discard == f.peer_discard:
            return None
        source = f.peer_discard
        self.say(
            Level.WARNING,
            f"Split-Brain detected, manually solved. Sync from {'this' if source else 'peer'} node",
        )
        ambiguous = self._verdict.outcome == Outcome.SPLIT_BRAIN_AMBIGUOUS
        if ambiguous:
            self.say(Level.WARNING, "Doing a full sync, since UUIDs where ambiguous.")
        return _sync(source=source, full=ambiguous)

    def _by_leftover_bits(self) -> Outcome:
        """Equal generations with bits set: whoever can have newer data is the source.

        A Primary is, because its clients have seen its data; else the only node that recorded
        changes; else the tie is broken as after two crashes. Two Primaries are left alone.
        """
        f = self._facts
        bits = max(f.own_changes, f.peer_changes)
        own_primary, peer_primary = f.own_role == Role.PRIMARY, f.peer_role == Role.PRIMARY
        usable = f.own_disk > DiskState.INCONSISTENT and f.peer_disk > DiskState.INCONSISTENT
        equal = same_generation(f.own.uuids.current, f.peer.uuids.current)
        both_primary = own_primary and peer_primary
        if (
            not bits
            or not f.peer_resyncs_leftover
            or not usable
            or both_primary
            or not equal
            or self._verdict.rule != 40
        ):
            return Outcome.NONE
        if own_primary != peer_primary:
            source = own_primary
        elif bool(f.own_changes) != bool(f.peer_changes):
            source = bool(f.own_changes)
        else:
            source = not f.resolves_conflicts
        self._leftover = True
        self.say(
            Level.WARNING,
            f"Equal generations, but {f.own_changes} bits here and {f.peer_changes} bits at the "
            f"peer. Sync from {'this' if source else 'peer'} node",
        )
        return _sync(source=source, full=False)

    def _barred(self, plan: Outcome) -> Decision | None:
        """Steps 7 to 9: a source without good data, a Primary as target, a dry run."""
        f = self._facts
        if plan in _SOURCE and f.own_disk <= DiskState.INCONSISTENT:  # step 7
            self.say(Level.ERROR, "I shall become SyncSource, but I am inconsistent!")
            return self.refused(
                f"By its generation UUIDs this node would be sync source, but its disk is "
                f"{f.own_disk}. To declare the local data good, run primary --force; to take the "
                "peer's data, invalidate this node once the peer is UpToDate."
            )
        still_primary = f.own_role == Role.PRIMARY and not self._demote
        if (  # step 8
            plan in _TARGET and still_primary and f.own_current_disk >= DiskState.CONSISTENT
        ):
            if f.rr_conflict != Policy.VIOLENTLY:
                if f.rr_conflict == Policy.CALL_HELPER:
                    self._handlers.append("pri-lost")
                self.say(Level.ERROR, "I shall become SyncTarget, but I am primary!")
                return self.refused(
                    "The peer has the newer data, but this node is Primary: a resync would change "
                    "data under the application. Stop the application, make this node secondary "
                    "and connect again.",
                )
            self.say(
                Level.WARNING,
                "Becoming SyncTarget while Primary with good data, as rr-conflict violently wants",
            )
        if f.dry_run:  # step 9
            self.say(Level.INFO, f"dry-run connect: {_prospect(plan)}")
            return self.refused(f"Dry run: {_prospect(plan)} Nothing was changed.")
        return None

    def _granted(self, plan: Outcome) -> Decision:
        """Steps 10 and 11."""
        f = self._facts
        full = plan in _FULL
        if full:
            self.say(
                Level.INFO,
                "Writing the whole bitmap, full sync required after drbd_sync_handshake.",
            )
        if plan == Outcome.NONE:
            conn = ConnState.CONNECTED
            reason = "Both nodes have the same data: no resync."
            if f.own_changes:
                self.say(Level.WARNING, f"No resync, but {f.own_changes} bits in bitmap!")
                reason = (
                    f"Both nodes have the same generation, so there is no resync, but "
                    f"{f.own_changes} blocks are marked out of sync here. Invalidate the node "
                    "whose copy is not wanted to repair them."
                )
        else:
            source = plan in _SOURCE
            conn = ConnState.WF_BITMAP_S if source else ConnState.WF_BITMAP_T
            reason = (
                f"Resync {'to' if source else 'from'} the peer, "
                f"{'of the whole device' if full else 'by bitmap'} "
                f"(UUID comparison: rule {self._verdict.rule})."
            )
        return Decision(
            verdict=self._verdict,
            conn=conn,
            set_all_bits=full,
            handlers=tuple(self._handlers),
            log=tuple(self._log),
            reason=reason,
            demote=self._demote,
            leftover=self._leftover,
        )


def _sync(*, source: bool, full: bool) -> Outcome:
    if source:
        return Outcome.SOURCE_FULL if full else Outcome.SOURCE_BITMAP
    return Outcome.TARGET_FULL if full else Outcome.TARGET_BITMAP


def _prospect(plan: Outcome) -> str:
    """What a dry run would have led to, in DRBD's words."""
    if plan == Outcome.NONE:
        return "No resync, would become Connected immediately."
    state = "SyncSource" if plan in _SOURCE else "SyncTarget"
    return f"Would become {state}, doing a {'full' if plan in _FULL else 'bit-map based'} resync."


def _side_line(name: str, side: Side, bits: int, *, discard: bool) -> str:
    """DRBD's log line of one side; flags: 1 discard-my-data, 2 crashed Primary."""
    return f"{name} {side.uuids} bits:{bits} flags:{discard | side.crashed_primary << 1}"
