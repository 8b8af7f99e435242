"""8.3 and older spellings become 8.4's; DRBD 9's own options are passed over with a warning."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from replblk.admin.options import DRBD9_ONLY, OBSOLETE
from replblk.admin.resolve import Configuration
from replblk.model.config import Resource
from replblk.model.vocabulary import OnNoData, Policy, Protocol

Loaded = Callable[..., Configuration]

HOSTS = """
on alpha { device minor 0; disk /dev/sda; address 10.0.0.1:7788; meta-disk internal; }
on bravo { device minor 0; disk /dev/sda; address 10.0.0.2:7788; meta-disk internal; }
"""


@pytest.fixture
def one(loaded: Loaded) -> Callable[[str], Resource]:
    def load_one(extra: str) -> Resource:
        configuration = loaded(f"resource r0 {{ {extra} {HOSTS} }}")
        assert configuration.warnings == []
        return configuration.find("r0")

    return load_one


One = Callable[[str], Resource]


def test_syncer_options_move_to_disk_net_and_options(one: One) -> None:
    resource = one(
        "syncer { rate 1M; al-extents 257; c-plan-ahead 7; c-delay-target 6; c-fill-target 1M; "
        "c-max-rate 2M; c-min-rate 0; verify-alg sha1; csums-alg md5; use-rle no; cpu-mask 3; "
        "on-no-data-accessible suspend-io; }"
    )
    disk = resource.local.volumes[0].options
    assert (disk.resync_rate, disk.al_extents, disk.c_plan_ahead) == (1024, 257, 7)
    assert (disk.c_delay_target, disk.c_fill_target) == (6, 2048)
    assert (disk.c_max_rate, disk.c_min_rate) == (2048, 0)
    net = resource.net
    assert (net.verify_alg, net.csums_alg, net.use_rle) == ("sha1", "md5", False)
    assert resource.cpu_mask == "3"
    assert resource.on_no_data_accessible is OnNoData.SUSPEND_IO


def test_rate_and_after_are_read_in_disk_too(loaded: Loaded) -> None:
    other = HOSTS.replace("minor 0", "minor 1").replace("sda", "sdb").replace(":7788", ":7789")
    configuration = loaded(
        f"resource r0 {{ disk {{ rate 7M; after r1; }} {HOSTS} }} resource r1 {{ {other} }}"
    )
    disk = configuration.find("r0").local.volumes[0].options
    assert (disk.resync_rate, disk.resync_after) == (7168, "r1")


def test_the_five_no_options_switch_off(one: One) -> None:
    resource = one(
        "disk { no-disk-barrier; no-disk-flushes; no-disk-drain; no-md-flushes; } "
        "net { no-tcp-cork; }"
    )
    disk = resource.local.volumes[0].options
    switches = (disk.disk_barrier, disk.disk_flushes, disk.disk_drain, disk.md_flushes)
    assert switches == (False, False, False, False)
    assert not resource.net.tcp_cork


def test_a_boolean_without_value_is_yes(one: One) -> None:
    resource = one("disk { disk-barrier; } net { always-asbp; csums-after-crash-only yes; }")
    assert resource.local.volumes[0].options.disk_barrier
    assert resource.net.always_asbp
    assert resource.net.csums_after_crash_only


def test_outdate_peer_is_fence_peer(one: One) -> None:
    assert one("handlers { outdate-peer /x; }").handlers == {"fence-peer": "/x"}


def test_protocol_in_common_and_in_lower_case(loaded: Loaded) -> None:
    configuration = loaded(f"common {{ protocol b; }} resource r0 {{ {HOSTS} }}")
    assert configuration.find("r0").net.protocol is Protocol.B


@pytest.mark.parametrize("name", sorted(OBSOLETE))
def test_obsolete_options_are_ignored_with_a_warning(loaded: Loaded, name: str) -> None:
    configuration = loaded(f"resource r0 {{ disk {{ {name} 5; al-extents 257; }} {HOSTS} }}")
    assert configuration.find("r0").local.volumes[0].options.al_extents == 257
    assert [name in warning for warning in configuration.warnings] == [True]


def test_ignore_on_is_ignored_with_its_warning(loaded: Loaded) -> None:
    configuration = loaded(f"resource r0 {{ ignore-on charlie; {HOSTS} }}")
    assert configuration.warnings[0].endswith(
        "in resource r0, WARN: The 'ignore-on' keyword is deprecated."
    )


@pytest.mark.parametrize(
    ("section", "name"),
    [(section, name) for section in DRBD9_ONLY for name in sorted(DRBD9_ONLY[section])],
)
def test_options_of_drbd_9_warn_and_reading_goes_on(
    loaded: Loaded, section: str, name: str
) -> None:
    block = f"{section} {{ {name} 5; }}"
    text = f"{block} resource r0 {{ {HOSTS} }}"
    if section != "global":
        text = f"resource r0 {{ {block} {HOSTS} }}"
    configuration = loaded(text)
    (warning,) = configuration.warnings
    assert f"'{name}' is an option of DRBD 9" in warning
    assert "t.conf:1:" in warning
    assert name not in configuration.dump()


def test_node_id_of_drbd_9_warns(loaded: Loaded) -> None:
    hosts = HOSTS.replace("device", "node-id 1; device")
    assert len(loaded(f"resource r0 {{ {hosts} }}").warnings) == 2


def test_a_late_global_section_warns(loaded: Loaded) -> None:
    configuration = loaded(f"resource r0 {{ {HOSTS} }}\nglobal {{ minor-count 5; }}")
    assert "in front of any resource {} section" in configuration.warnings[0]
    assert configuration.globals.minor_count == 5


def test_a_number_the_driver_would_clamp_is_clamped_with_a_warning(loaded: Loaded) -> None:
    configuration = loaded(f"resource r0 {{ disk {{ al-extents 7; }} {HOSTS} }}")
    assert configuration.find("r0").local.volumes[0].options.al_extents == 67
    assert "al-extents 7 => 7 out of range [67..65534]." in configuration.warnings[0]


def test_discard_node_means_local_or_remote_depending_on_who_reads(loaded: Loaded) -> None:
    text = f"resource r0 {{ net {{ after-sb-0pri discard-node-alpha; }} {HOSTS} }}"
    assert loaded(text, "alpha").find("r0").net.after_sb_0pri is Policy.DISCARD_LOCAL
    assert loaded(text, "bravo").find("r0").net.after_sb_0pri is Policy.DISCARD_REMOTE


def test_skip_leaves_a_block_out(loaded: Loaded) -> None:
    text = 'skip resource x { odd { % "}" # }\n } } skip { } skip "y" { a } '
    assert len(loaded(text + f"resource r0 {{ {HOSTS} }}").resources) == 1


def test_a_resource_may_end_with_the_file(loaded: Loaded) -> None:
    assert loaded(f"resource r0 {{ {HOSTS}").find("r0").name == "r0"


def test_keywords_are_names_when_quoted_and_survive_a_dump(loaded: Loaded) -> None:
    hosts = HOSTS.replace("on alpha", 'on "disk"')
    configuration = loaded(f'resource "net" {{ proxy {{ compression on; }} {hosts} }}', "disk")
    assert configuration.find("net").local.names == ("disk",)
    again = loaded(configuration.dump(), "disk")
    assert again.find("net").local == configuration.find("net").local
    assert "compression       on;" in configuration.dump()


def test_addresses_of_every_family(loaded: Loaded) -> None:
    for written, shown in (
        ("ipv6 [::1]:7788", "ipv6 [::1]:7788"),
        ("ipv6 [fe80::1%eth0]:7788", "ipv6 [fe80::1%eth0]:7788"),
        ("ipv6 [::ffff:10.0.0.1]:7788", "ipv6 [::ffff:10.0.0.1]:7788"),
        ("sci 10.0.0.1:7788", "ssocks 10.0.0.1:7788"),
        ("sdp 10.0.0.1:7788", "sdp 10.0.0.1:7788"),
    ):
        hosts = HOSTS.replace("address 10.0.0.1:7788", f"address {written}")
        configuration = loaded(f"resource r0 {{ {hosts} }}")
        assert f"address          {shown};" in configuration.dump()


def test_what_drbdsetup_show_prints_loads(loaded: Loaded) -> None:
    text = """
resource left {
    options {
    }
    net {
        verify-alg      \t"crc32c";
    }
    _remote_host {
        address\t\t\tipv4 127.0.0.1:7789;
    }
    _this_host {
        address\t\t\tipv4 127.0.0.1:7788;
        volume 0 {
            device\t\t\tminor 0;
            disk\t\t\t"/dev/loop0";
            meta-disk\t\t\t"/dev/x" [ 2 ];
            disk {
                fencing         \tresource-only;
                resync-rate     \t102400k; # bytes/second
                size            \t2097152s; # bytes
            }
        }
    }
}
"""
    left = loaded(text).find("left")
    assert left.local.volumes[0].options.resync_rate == 102400
    assert left.local.volumes[0].options.size_sectors == 2097152
    assert left.local.volumes[0].meta_index == 2
    assert left.peer is not None
    assert left.peer.address.port == 7789
