"""The command line without any daemon: usage, global options, refusals, exit codes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from replblk import __version__
from replblk.cli.main import app, main
from tests.support.site import Done, Site, free_port


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path, free_port())


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    def one(*arguments: str) -> Done:
        returncode = main(arguments)
        captured = capsys.readouterr()
        return Done(returncode, captured.out, captured.err)

    return one


def test_version_and_help_need_no_configuration(run: Callable[..., Done]) -> None:
    assert run("--version").stdout == f"replblk {__version__} (proto:86-101)\n"
    assert "wait-connect" in run("--help").stdout
    assert "--discard-my-data" in run("connect", "--help").stdout


@pytest.mark.parametrize("name", sorted(app.commands))
def test_every_command_has_a_help_of_its_own(run: Callable[..., Done], name: str) -> None:
    shown = run(name, "--help")
    assert shown.returncode == 0
    assert app.commands[name].help


@pytest.mark.parametrize(
    "arguments",
    [(), ("nonsense",), ("primary",), ("primary", "--nonsense", "r0"), ("wait-sync", "-t", "x")],
)
def test_wrong_usage_is_exit_1(run: Callable[..., Done], arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 1
    assert done.stderr


def test_a_missing_configuration_is_a_sentence(run: Callable[..., Done], tmp_path: Path) -> None:
    done = run("-c", str(tmp_path / "none.conf"), "role", "r0")
    assert done.returncode == 20
    assert "none.conf" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_syntax_error_names_file_and_line(run: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "bad.conf").write_text("resource r0 {\n  nonsense;\n}\n")
    done = run("-c", str(tmp_path / "bad.conf"), "role", "r0")
    assert done.returncode in (2, 10)
    assert "bad.conf:2:" in done.stderr


def test_an_unknown_resource_is_exit_1(site: Site) -> None:
    done = site.replblk("alpha", "role", "r9")
    assert done.returncode == 1
    assert "'r9' not defined in your config" in done.stderr


def test_the_environment_gives_the_global_options(
    site: Site, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Done]
) -> None:
    monkeypatch.setenv("REPLBLK_CONFIG", str(site.config))
    monkeypatch.setenv("REPLBLK_NODE", "beta")
    monkeypatch.setenv("REPLBLK_RUN_DIR", str(site.folder / "elsewhere"))
    done = run("primary", "-d", "r0")
    assert done.stdout == f"{site.folder}/elsewhere/r0/control.sock: primary r0\n"


def test_a_settings_file_that_was_named_must_exist(
    site: Site, run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REPLBLK_RUN_DIR", raising=False)
    done = run("-c", str(site.config), "--node", "alpha", "--settings", "/none.toml", "role", "r0")
    assert done.returncode == 10
    assert "/none.toml" in done.stderr


def test_the_run_directory_may_come_from_the_settings(
    site: Site, run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REPLBLK_RUN_DIR", raising=False)
    (site.folder / "replblk.toml").write_text(f'run_dir = "{site.folder}/there"\n')
    done = run("-c", str(site.config), "--node", "alpha", "secondary", "-d", "r0")
    assert done.stdout.startswith(f"{site.folder}/there/r0/")


@pytest.mark.parametrize("command", ["role", "cstate", "dstate"])
def test_states_of_what_does_not_run_are_unconfigured(site: Site, command: str) -> None:
    done = site.replblk("alpha", command, "all")
    assert (done.returncode, done.stdout) == (0, "Unconfigured\n")


@pytest.mark.parametrize("command", ["primary", "secondary", "connect", "attach", "wait-sync"])
def test_commands_to_what_does_not_run_say_how_to_start_it(site: Site, command: str) -> None:
    done = site.replblk("alpha", command, "r0")
    assert done.returncode == 10
    assert done.stderr == "r0: not running on this node; start it with 'replblk up r0'\n"


def test_down_of_what_does_not_run_is_fine(site: Site) -> None:
    assert site.replblk("alpha", "down", "r0") == Done(0, "", "")


def test_proc_shows_only_what_runs(site: Site) -> None:
    done = site.replblk("alpha", "proc")
    assert done.returncode == 0
    assert "cs:" not in done.stdout


@pytest.mark.parametrize("command", ["connect", "disconnect", "down", "up"])
def test_whole_resource_commands_take_no_volume(site: Site, command: str) -> None:
    text = site.config.read_text().replace(
        "device /dev/drbd0;\n  meta-disk internal;", "volume 0 { device minor 0; disk /x; }"
    )
    text = text.replace(f"disk {site.folder}/alpha.img;", "").replace(
        f"disk {site.folder}/beta.img;", ""
    )
    site.config.write_text(text.replace("disk /x;", "disk /x; meta-disk internal;"))
    done = site.replblk("alpha", command, "r0/0")
    assert done.returncode == 1
    assert "operates on whole resources" in done.stderr


def test_what_is_not_supported_is_refused_before_anything_starts(site: Site) -> None:
    site.config.write_text(
        site.config.read_text().replace("protocol C;", "protocol C; on-congestion pull-ahead;")
    )
    done = site.replblk("alpha", "up", "r0")
    assert done.returncode == 10
    assert "on-congestion" in done.stderr
    assert not site.run_file("alpha", "").exists()


def test_an_own_address_that_this_machine_has_not_is_refused(site: Site) -> None:
    site.config.write_text(site.config.read_text().replace("127.0.0.1", "192.0.2.1"))
    done = site.replblk("alpha", "up", "r0")
    assert done.returncode == 10
    assert "192.0.2.1 not found on this host" in done.stderr


def test_dry_runs_print_and_do_nothing(site: Site) -> None:
    up = site.replblk("alpha", "up", "-d", "r0")
    assert "--node alpha" in up.stdout
    assert up.stdout.rstrip().endswith("run r0")
    create = site.replblk("alpha", "create-md", "-d", "--force", "r0")
    assert create.stdout == f"create-md r0/0: v08 internal on {site.folder}/alpha.img\n"
    assert (site.folder / "alpha.img").read_bytes().count(0) == 4 << 20
    force = site.replblk("alpha", "primary", "--force", "-d", "r0/0")
    assert force.stdout.endswith("primary r0/0 force=True\n")


def test_metadata_is_made_shown_and_not_overwritten_without_a_yes(site: Site) -> None:
    assert "successfully created" in site.run("alpha", "create-md", "r0")
    assert site.run("alpha", "get-gi", "r0").startswith("0000000000000004:")
    assert "flags: Secondary, StandAlone, Inconsistent" in site.run("alpha", "show-gi", "r0")
    assert 'version "v08";' in site.run("alpha", "dump-md", "r0")
    again = site.replblk("alpha", "create-md", "r0")
    assert again.returncode == 1
    assert "need to type 'yes'" in again.stderr
    assert site.replblk("alpha", "create-md", "--force", "r0").returncode == 0
    assert site.replblk("alpha", "wipe-md", "--force", "r0").returncode == 0
    assert site.replblk("alpha", "get-gi", "r0").returncode == 1


def test_dump_prints_the_configuration(site: Site) -> None:
    assert "resource r0 {" in site.run("alpha", "dump")
    assert "resource r0 {" in site.run("alpha", "dump", "r0")
