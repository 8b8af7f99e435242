"""Which of several settings counts, whose host section is mine, and what include reads."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from replblk.admin.resolve import Configuration, load
from replblk.model.errors import ConfigError
from replblk.model.vocabulary import Protocol

Loaded = Callable[..., Configuration]


def two_hosts(alpha: str = "", resource: str = "", common: str = "") -> str:
    return f"""
common {{ {common} }}
resource r0 {{
  {resource}
  volume 0 {{ device minor 0; disk /dev/sda; meta-disk internal; disk {{ al-extents 500; }} }}
  on alpha {{ address 10.0.0.1:7788; {alpha} }}
  on bravo {{ address 10.0.0.2:7788; }}
}}
"""


def al_extents(configuration: Configuration) -> int:
    return configuration.find("r0").local.volumes[0].options.al_extents


def test_the_narrower_disk_setting_wins(loaded: Loaded) -> None:
    """host volume > resource volume > resource > common, though drbdadm gets the third wrong"""
    common, resource = "disk { al-extents 100; }", "disk { al-extents 300; }"
    alpha = "volume 0 { disk { al-extents 700; } }"
    without = two_hosts("", resource, common).replace("disk { al-extents 500; }", "")
    assert al_extents(loaded(without.replace(resource, ""))) == 100
    assert al_extents(loaded(without)) == 300
    assert al_extents(loaded(two_hosts("", resource, common))) == 500
    assert al_extents(loaded(two_hosts(alpha, resource, common))) == 700


def test_a_host_volume_counts_for_that_host_only(loaded: Loaded) -> None:
    resource = loaded(two_hosts("volume 0 { disk { al-extents 700; } }")).find("r0")
    assert resource.peer is not None
    assert resource.peer.volumes[0].options.al_extents == 500


def test_of_two_in_one_disk_section_the_first_wins(loaded: Loaded) -> None:
    text = two_hosts("volume 0 { disk { al-extents 700; al-extents 701; } }")
    assert al_extents(loaded(text)) == 700


def test_of_two_in_one_net_section_the_last_wins(loaded: Loaded) -> None:
    net = loaded(two_hosts("", "net { timeout 50; timeout 40; }")).find("r0").net
    assert net.timeout == 40


def test_protocol_statement_and_option_count_in_file_order(loaded: Loaded) -> None:
    before = loaded(two_hosts("", "protocol A; net { protocol C; }")).find("r0")
    after = loaded(two_hosts("", "net { protocol C; } protocol A;")).find("r0")
    assert (before.net.protocol, after.net.protocol) == (Protocol.C, Protocol.A)


def test_common_fills_in_what_a_resource_leaves_open(loaded: Loaded) -> None:
    common = (
        "net { timeout 50; ping-int 20; } startup { wfc-timeout 9; become-primary-on alpha; } "
        "handlers { split-brain /common; out-of-sync /common; } options { cpu-mask f; }"
    )
    resource = "net { timeout 40; } startup { degr-wfc-timeout 5; } handlers { split-brain /r; }"
    r0 = loaded(two_hosts("", resource, common)).find("r0")
    assert (r0.net.timeout, r0.net.ping_int) == (40, 20)
    assert (r0.startup.wfc_timeout, r0.startup.degr_wfc_timeout) == (9, 5)
    assert r0.startup.become_primary_on == ("alpha",)
    assert r0.handlers == {"split-brain": "/r", "out-of-sync": "/common"}
    assert r0.cpu_mask == "f"


def test_a_resource_volume_loads_the_same_after_a_dump(loaded: Loaded) -> None:
    text = two_hosts("", "disk { al-extents 300; }")
    assert al_extents(loaded(loaded(text).dump())) == 500


def test_of_two_blocks_of_one_volume_the_first_wins_with_a_warning(loaded: Loaded) -> None:
    text = two_hosts("volume 0 { disk /dev/first; } volume 0 { disk /dev/second; }")
    configuration = loaded(text)
    assert configuration.find("r0").local.volumes[0].disk == "/dev/first"
    assert "volume 0 is repeated" in configuration.warnings[0]


def test_volumes_come_in_ascending_order(loaded: Loaded) -> None:
    extra = "volume 7 { device minor 7; disk /dev/sdh; meta-disk internal; }"
    more = "volume 3 { device minor 3; disk /dev/sdd; meta-disk internal; }"
    resource = loaded(two_hosts("", extra + more)).find("r0")
    assert [volume.number for volume in resource.local.volumes] == [0, 3, 7]
    assert resource.volume(3).disk == "/dev/sdd"


def test_host_names_match_exactly(loaded: Loaded) -> None:
    for node in ("Alpha", "alpha.example.org", "alp"):
        assert loaded(two_hosts(), node).ignored == ["r0"]
    assert loaded(two_hosts(), "bravo").find("r0").local.names == ("bravo",)


def test_one_section_may_stand_for_several_nodes(loaded: Loaded) -> None:
    text = two_hosts().replace("on bravo", "on bravo charlie")
    assert loaded(text, "charlie").find("r0").local.names == ("bravo", "charlie")


def test_one_section_alone_has_no_peer(loaded: Loaded) -> None:
    text = "".join(line for line in two_hosts().splitlines(True) if "bravo" not in line)
    configuration = loaded(text)
    resource = configuration.find("r0")
    assert resource.peer is None
    sentence = configuration.why_no_peer(resource)
    assert "Missing section 'on <PEER> { ... }'.\n" in sentence
    assert "resource r0: cannot configure network without knowing my peer." in sentence


def test_with_three_sections_the_peer_must_be_named(loaded: Loaded) -> None:
    third = "on charlie { address 10.0.0.3:7788; }\n}\n"
    text = two_hosts().rstrip().removesuffix("}") + third
    configuration = loaded(text)
    assert configuration.find("r0").peer is None
    assert "multiple host sections for the peer" in configuration.why_no_peer(
        configuration.find("r0")
    )
    for peer in ("charlie", "10.0.0.3", "10.0.0.3:7788"):
        found = loaded(text, peer=peer).find("r0").peer
        assert found is not None
        assert found.names == ("charlie",)
    with pytest.raises(ConfigError, match="section matches --peer 'zulu'") as caught:
        loaded(text, peer="zulu")
    assert caught.value.exit_code == 20


def test_floating_sections_match_addresses_of_this_machine(loaded: Loaded) -> None:
    text = """resource f { device minor 4; disk /dev/loop4; meta-disk internal;
      floating 10.1.1.1:7800; floating 10.1.1.2:7800; }"""
    assert loaded(text, addresses=["10.1.1.2"]).find("f").local.address.host == "10.1.1.2"
    assert loaded(text).ignored == ["f"]
    with pytest.raises(ConfigError, match="multiple host sections for this node"):
        loaded(text, addresses=["10.1.1.1", "10.1.1.2"])


def write_resources(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for minor, name in enumerate(names):
        (folder / f"{name}.res").write_text(
            f"resource {name} {{ on alpha {{ device minor {minor}; disk /dev/{name}; "
            f"address 10.0.0.1:{7788 + minor}; meta-disk internal; }} }}"
        )


def test_a_pattern_is_read_in_sorted_order_relative_to_its_file(
    tmp_path: Path, loaded: Loaded
) -> None:
    write_resources(tmp_path / "drbd.d", "b", "a", "c")
    (tmp_path / "drbd.d" / "global_common.conf").write_text("common { net { timeout 33; } }")
    (tmp_path / "drbd.d" / "folder.res").mkdir()
    configuration = loaded('include "drbd.d/global_common.conf";\ninclude "drbd.d/*.res";\n')
    assert [resource.name for resource in configuration.resources] == ["a", "b", "c"]
    assert configuration.find("b").net.timeout == 33
    assert configuration.find("b").config_file == str(tmp_path / "drbd.d" / "b.res")
    assert len(configuration.files) == 5


def test_a_file_is_read_once_however_it_is_named(tmp_path: Path, loaded: Loaded) -> None:
    write_resources(tmp_path / "drbd.d", "a")
    (tmp_path / "link.res").symlink_to("drbd.d/a.res")
    text = 'include "drbd.d/*.res"; include "drbd.d/../drbd.d/a.res"; include link.res;'
    assert len(loaded(text + f'include "{tmp_path}/t.conf";').resources) == 1


def test_an_include_in_an_included_file_is_relative_to_that_one(
    tmp_path: Path, loaded: Loaded
) -> None:
    (tmp_path / "drbd.d").mkdir()
    write_resources(tmp_path / "drbd.d" / "more", "a")
    (tmp_path / "drbd.d" / "all.conf").write_text("include more/a.res;")
    assert len(loaded("include drbd.d/all.conf;").resources) == 1


def test_an_empty_pattern_match_is_fine(loaded: Loaded) -> None:
    assert loaded('include "drbd.d/*.res";').resources == []


def test_errors_in_included_files_name_those(tmp_path: Path, loaded: Loaded) -> None:
    (tmp_path / "bad.res").write_text("\nresource r0 { bogus; }")
    with pytest.raises(ConfigError) as caught:
        loaded("include bad.res;")
    assert (Path(caught.value.file).name, caught.value.line) == ("bad.res", 2)


def test_endless_chains_of_files_end(tmp_path: Path, loaded: Loaded) -> None:
    for number in range(60):
        (tmp_path / f"{number}.conf").write_text(f"include {tmp_path}/{number + 1}.conf;")
    with pytest.raises(ConfigError, match="include each other 50 deep"):
        loaded(f"include {tmp_path}/0.conf;")


def test_standard_input_is_read_when_asked_for() -> None:
    configuration = load("-", node="alpha", stdin=io.StringIO(two_hosts()))
    assert configuration.find("r0").config_file == "<stdin>"
    assert configuration.dump().startswith("# <stdin>\n")
    with pytest.raises(ConfigError, match="no standard input here"):
        load("-", node="alpha")


def test_comments_need_not_be_utf8_but_strings_must(tmp_path: Path) -> None:
    file = tmp_path / "t.conf"
    file.write_bytes(b"# Gr\xfc\xdfe\nresource r0 { }\n")
    assert load(file, node="alpha").ignored == ["r0"]
    file.write_bytes(b'resource "r\xfc" { }\n')
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load(file, node="alpha")


def test_relative_names_stay_relative_while_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.conf").write_text("resource r0 { bogus; }")
    with pytest.raises(ConfigError, match=r"^t\.conf:1:15: "):
        load("t.conf", node="alpha")
    Path("t.conf").write_text(two_hosts() + two_hosts().replace("common { }", ""))
    with pytest.raises(ConfigError, match=rf"{tmp_path}/t\.conf:\d+:\d+: conflicting use"):
        load("t.conf", node="alpha")
