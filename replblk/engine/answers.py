"""What an administrator is told of a change: DRBD's sentence, the exit status, and what to do."""

from __future__ import annotations

from replblk.engine.ports import Answer
from replblk.model.config import NetOptions
from replblk.model.vocabulary import CODE_TEXT, Code, exit_code
from replblk.wire import auth

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
    Code.PRIMARY_NOP: "fencing is on and the peer could not be fenced (the log tells what the "
    "handler fence-peer said): connect to it, or, if it is certain that nobody uses its data, use "
    "primary --force",
}


def refusal(code: Code) -> Answer:
    """DRBD's sentence for a refused change, and what to do."""
    text = f"State change failed: ({int(code)}) {CODE_TEXT.get(code, 'unknown error.')}"
    advice = ADVICE.get(code)
    return Answer(exit_code(code), f"{text}: {advice}" if advice else text, int(code))


def outcome(code: Code) -> Answer:
    """Fine, or refused."""
    return Answer(0, "", int(code)) if code >= Code.SUCCESS else refusal(code)


def unknown_algorithm(net: NetOptions) -> Answer | None:
    """The refusal of a connection whose options name an algorithm we do not have, or None."""
    for option, alg, keyed, number in (
        ("cram-hmac-alg", net.cram_hmac_alg, True, 120),
        ("data-integrity-alg", net.data_integrity_alg, False, 141),
        ("csums-alg", net.csums_alg, False, 144),
        ("verify-alg", net.verify_alg, False, 146),
    ):
        if alg and not auth.known(alg, keyed=keyed):
            return Answer(
                10,
                f"The '{option}' you specified is not known: {alg}; use one of sha1, sha256, "
                f"sha512, md5{'' if keyed else ', crc32c'}",
                number,
            )
    return None
