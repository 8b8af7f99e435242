"""The ``replblk`` command line: global options, and errors as sentences with drbdadm's exit codes.

0 fine; 1 usage; 10 configuration invalid, or DRBD's "Failure: (1xx)"; 5, 11, 16, 17 refused state
changes; 20 can't be carried out; 40 existing data is in the way; 70 an internal fault.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from replblk import __version__
from replblk.cli.device_commands import DEVICE_COMMANDS
from replblk.cli.metadata_commands import METADATA_COMMANDS
from replblk.cli.resize_command import RESIZE_COMMANDS
from replblk.cli.resource_commands import RESOURCE_COMMANDS
from replblk.cli.role_commands import ROLE_COMMANDS
from replblk.cli.session import EXIT_USAGE, Session, complain
from replblk.cli.status_commands import STATUS_COMMANDS
from replblk.model.errors import AdminError, ConfigError

EXIT_INTERRUPTED = 130
EXIT_PIPE = 141


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    no_args_is_help=False,
)
@click.version_option(__version__, "-V", "--version", message="replblk %(version)s (proto:86-101)")
@click.option(
    *("-c", "--config", "config_path"),
    metavar="FILE",
    default="/etc/drbd.conf",
    show_default=True,
    envvar="REPLBLK_CONFIG",
    help="Configuration in DRBD's language; - for standard input. [env: REPLBLK_CONFIG]",
)
@click.option(
    *("--settings", "settings_path"),
    metavar="FILE",
    envvar="REPLBLK_SETTINGS",
    help="Settings that are not DRBD's (TOML). Default: replblk.toml beside the configuration, "
    "if there is one. [env: REPLBLK_SETTINGS]",
)
@click.option(
    "--node",
    metavar="NAME",
    envvar="REPLBLK_NODE",
    help="Which 'on' section is this node. Default: the host name. [env: REPLBLK_NODE]",
)
@click.option(
    *("--run-dir", "run_dir"),
    metavar="DIR",
    envvar="REPLBLK_RUN_DIR",
    help="Where daemons keep sockets and logs. Default: /run/replblk for root, "
    "$XDG_RUNTIME_DIR/replblk for others. [env: REPLBLK_RUN_DIR]",
)
@click.option(*("-d", "--dry-run"), is_flag=True, help="Print what would be done, and do nothing.")
@click.pass_context
def app(
    ctx: click.Context,
    config_path: str,
    settings_path: str | None,
    node: str | None,
    run_dir: str | None,
    dry_run: bool,
) -> None:
    """Replicate block devices between two nodes, with DRBD 8.4's protocol and configuration.

    RES is a resource, RES/VOL one of its volumes, minor-N the volume with that minor number, and
    "all" every resource of this node.
    """
    ctx.obj = Session(config_path, settings_path, node or os.uname().nodename, run_dir, dry_run)


for _command in (
    *(*RESOURCE_COMMANDS, *ROLE_COMMANDS, *RESIZE_COMMANDS, *STATUS_COMMANDS),
    *(*METADATA_COMMANDS, *DEVICE_COMMANDS),
):
    app.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; the exit status."""
    try:
        status = app.main(args=arguments, prog_name="replblk", standalone_mode=False)
        sys.stdout.flush()
        return int(status or 0)
    except click.Abort:
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        return EXIT_USAGE
    except (AdminError, ConfigError) as error:
        complain(str(error))
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our output has gone; keep the interpreter from complaining at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
