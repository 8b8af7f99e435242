"""Spoils valid inputs by the thousand and feeds every decoder: ``make fuzz COUNT=100000``.

The same seed gives the same inputs. A decoder that raises anything it does not declare, or breaks
its word about what it accepted, ends the run with the input in hexadecimal.
"""

from __future__ import annotations

import argparse
import random
import sys
import time

from tests.fuzz.targets import TARGETS, Target

GROWTH_MAX = 300
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF)


class UndeclaredError(AssertionError):
    """A decoder did what it must not."""


def spoilt(chance: random.Random, example: bytes) -> bytes:
    """A mutation of a valid input; now and then nothing but chance."""
    if chance.random() < 0.05:
        return chance.randbytes(chance.randrange(200))
    data = bytearray(example)
    for _ in range(chance.choice((1, 1, 2, 3, 8))):
        kind = chance.randrange(7)
        at = chance.randrange(len(data) + 1)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << chance.randrange(8)
        elif kind == 1 and data:
            data[at % len(data)] = chance.choice(INTERESTING)
        elif kind == 2:
            data[at:at] = chance.randbytes(chance.randrange(1, 9))
        elif kind == 3:
            del data[at : at + chance.randrange(1, 20)]
        elif kind == 4:
            del data[at:]
        elif kind == 5 and len(data) >= 4:
            number = chance.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, 4096))
            place = at % (len(data) - 3)
            data[place : place + 4] = number.to_bytes(4, "big")
        else:
            data += data[at : at + GROWTH_MAX]
    return bytes(data)


def fuzz(target: Target, count: int, seed: int) -> tuple[int, int]:
    """Feed *count* inputs; how many were accepted, how many refused. Raises UndeclaredError."""
    chance = random.Random(f"{seed}/{target.name}")
    accepted = refused = 0
    for _ in range(count):
        data = spoilt(chance, chance.choice(target.examples))
        try:
            target.feed(data)
        except target.declared:
            refused += 1
        except Exception as error:
            raise UndeclaredError(
                f"{target.name}: {type(error).__name__}: {error}\ninput {data.hex()}"
            ) from error
        else:
            accepted += 1
    return accepted, refused


def main(arguments: list[str] | None = None) -> int:
    """Feed all targets; 0 if all kept their word."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__)
    parser.add_argument("--count", type=int, default=100_000, help="inputs in all")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(arguments)
    share = args.count / sum(target.weight for target in TARGETS)
    total = 0
    for target in TARGETS:
        began, count = time.perf_counter(), max(1, round(share * target.weight))
        accepted, refused = fuzz(target, count, args.seed)
        total += count
        pace = count / (time.perf_counter() - began)
        print(
            f"{target.name:<28} {count:>9} inputs, {accepted} accepted, {refused} refused, "
            f"{pace:.0f}/s",
            flush=True,
        )
    print(f"{total} inputs, no undeclared error")
    return 0


if __name__ == "__main__":
    sys.exit(main())
