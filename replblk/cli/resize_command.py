"""The command ``resize``: take into use what the backing devices have grown by, or name a size."""

from __future__ import annotations

import click

from replblk.admin.messages import OptionValue
from replblk.admin.options import lookup, number
from replblk.cli.options import resource_command
from replblk.cli.session import Session
from replblk.model.units import CAPACITY_SECTORS_MAX


def _sectors(ctx: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """A size as drbd.conf has it: 512-byte sectors, or a number with a suffix."""
    if value is None:
        return None
    option = lookup("disk", "size")
    assert option is not None
    sectors = number(option, value)
    if sectors is None or sectors > CAPACITY_SECTORS_MAX:
        raise click.BadParameter(
            f"{value!r} is no size: expected sectors, or a number with k, M or G", ctx, parameter
        )
    return sectors


@resource_command("resize")
@click.option(
    "--size",
    callback=_sectors,
    metavar="SIZE",
    help="This size, in sectors or with k, M, G, and not as much as both devices can hold. "
    "Only with it may the device become smaller.",
)
@click.option(
    *("--assume-peer-has-space", "assume_peer"),
    is_flag=True,
    help="Without a connection: as if the peer's backing device were as large as this one.",
)
@click.option(
    "--assume-clean",
    is_flag=True,
    help="The new part is the same on both nodes already: it is not resynced.",
)
@click.option(
    "--al-stripes", type=click.IntRange(1), metavar="N", help="Stripes of the activity log."
)
@click.option(
    *("--al-stripe-size-kB", "al_stripe_size_kib"),
    type=click.IntRange(4),
    metavar="KIB",
    help="Size of each, a multiple of 4.",
)
def resize(
    session: Session,
    names: tuple[str, ...],
    size: int | None,
    assume_peer: bool,
    assume_clean: bool,
    al_stripes: int | None,
    al_stripe_size_kib: int | None,
) -> int:
    """Use what the backing devices of RES have grown by: enlarge those on both nodes first.

    The metadata move to the devices' new ends, and the Primary copies the new part to its peer.
    """
    given: dict[str, OptionValue | None] = {
        "size_sectors": size,
        "assume_peer": assume_peer,
        "assume_clean": assume_clean,
        "al_stripes": al_stripes,
        "al_stripe_size_kib": al_stripe_size_kib,
    }
    options = {name: value for name, value in given.items() if value is not None}
    return session.command(names, "resize", options)


RESIZE_COMMANDS = (resize,)
