"""The examples of the configuration language, and the exact text they dump as."""

from __future__ import annotations

from collections.abc import Callable

from replblk.admin.resolve import Configuration
from replblk.model.vocabulary import OnIoError, Protocol

Loaded = Callable[..., Configuration]

TUTORIAL = """\
resource r0 {
  protocol C;
  net { timeout 60; connect-int 10; ping-int 10; max-buffers 2048; max-epoch-size 2048; }
  syncer { rate 200M; }
  startup { wfc-timeout 0; degr-wfc-timeout 120; }
  disk { on-io-error detach; }
  on alpha { device /dev/drbd0; disk /dev/loop1; address 127.0.0.1:7788; meta-disk internal; }
  on bravo { device /dev/drbd0; disk /dev/loop1; address 127.0.0.2:7788; meta-disk internal; }
}
"""

TUTORIAL_DUMP = """\
# PATH
# resource r0 on alpha: not ignored, not stacked
# defined at PATH:1
resource r0 {
    on alpha {
        device           /dev/drbd0 minor 0;
        disk             /dev/loop1;
        meta-disk        internal;
        address          ipv4 127.0.0.1:7788;
    }
    on bravo {
        device           /dev/drbd0 minor 0;
        disk             /dev/loop1;
        meta-disk        internal;
        address          ipv4 127.0.0.2:7788;
    }
    net {
        protocol           C;
        timeout           60;
        connect-int       10;
        ping-int          10;
        max-buffers      2048;
        max-epoch-size   2048;
    }
    disk {
        resync-rate      200M;
        on-io-error      detach;
    }
    startup {
        wfc-timeout        0;
        degr-wfc-timeout 120;
    }
}

"""

VOLUMES = """\
resource r0 {
  disk { resync-rate 10M; on-io-error detach; }
  volume 0 { device minor 1; disk /dev/loop1; meta-disk internal; }
  volume 1 { device /dev/drbd2; disk /dev/loop2; meta-disk /dev/loop3[2]; }
  on alpha { address 127.0.0.1:7788; volume 1 { disk /dev/loop7; disk { al-extents 3389; } } }
  on bravo { address ipv4 127.0.0.2:7789; }
}
"""

VOLUMES_ALPHA = """\
    on alpha {
        volume 0 {
            device       minor 1;
            disk         /dev/loop1;
            meta-disk    internal;
        }
        volume 1 {
            disk {
                al-extents 3389;
            }
            device       /dev/drbd2 minor 2;
            disk         /dev/loop7;
            meta-disk        /dev/loop3 [2];
        }
        address          ipv4 127.0.0.1:7788;
    }
"""

FLOATING_AND_STACKED = """\
resource lower { protocol C; device minor 2; disk /dev/loop2; meta-disk internal;
  on alpha { address 127.0.0.1:7788; }  on bravo { address 127.0.0.2:7788; } }
resource upper { protocol A;
  stacked-on-top-of lower { device /dev/drbd10; address 127.0.0.3:7790; }
  on gamma { device /dev/drbd10; disk /dev/loop5; address 127.0.0.4:7790; meta-disk internal; } }
resource f { device minor 4; disk /dev/loop4; meta-disk internal;
  floating 127.0.0.1:7800;  floating ipv4 10.9.9.9:7800 { disk /dev/loop9; } }
"""


def test_the_tutorial_configuration_dumps_as_drbdadm_dumps_it(loaded: Loaded) -> None:
    configuration = loaded(TUTORIAL)
    assert configuration.dump() == TUTORIAL_DUMP.replace("PATH", configuration.path)
    assert configuration.warnings == []


def test_the_tutorial_configuration_means_what_it_says(loaded: Loaded) -> None:
    (resource,) = loaded(TUTORIAL).resources
    assert resource.net.protocol is Protocol.C
    assert (resource.net.timeout, resource.net.max_epoch_size) == (60, 2048)
    assert resource.startup.degr_wfc_timeout == 120
    (volume,) = resource.local.volumes
    assert volume.implicit
    assert volume.options.resync_rate == 200 * 1024
    assert volume.options.on_io_error is OnIoError.DETACH
    assert (volume.device, volume.minor, volume.disk) == ("/dev/drbd0", 0, "/dev/loop1")
    assert str(resource.local.address) == "127.0.0.1:7788"
    assert resource.peer is not None
    assert resource.peer.names == ("bravo",)
    assert str(resource.peer.address) == "127.0.0.2:7788"
    assert resource.config_line == 1


def test_the_other_node_sees_the_mirror_image(loaded: Loaded) -> None:
    alpha = loaded(TUTORIAL, "alpha").find("r0")
    bravo = loaded(TUTORIAL, "bravo").find("r0")
    assert (alpha.local, alpha.peer) == (bravo.peer, bravo.local)


def test_a_named_resource_dumps_without_the_header(loaded: Loaded) -> None:
    text = loaded("global { minor-count 8; }\ncommon { net { timeout 30; } }\n" + TUTORIAL)
    assert text.dump(["r0"]).startswith("# resource r0 on alpha: not ignored, not stacked\n")
    assert "common" not in text.dump(["r0"])


def test_resource_volumes_are_defaults_for_each_host(loaded: Loaded) -> None:
    configuration = loaded(VOLUMES)
    assert VOLUMES_ALPHA in configuration.dump()
    resource = configuration.find("r0")
    zero, one = resource.local.volumes
    assert (zero.number, zero.minor, zero.device, zero.disk) == (0, 1, "/dev/drbd1", "/dev/loop1")
    assert (one.number, one.minor, one.disk) == (1, 2, "/dev/loop7")
    assert (one.meta_disk, one.meta_index) == ("/dev/loop3", 2)
    assert (one.options.al_extents, zero.options.al_extents) == (3389, 1237)
    assert one.options.resync_rate == zero.options.resync_rate == 10240
    assert resource.peer is not None
    assert resource.peer.volumes[1].disk == "/dev/loop2"


def test_floating_and_stacked_resources_load(loaded: Loaded) -> None:
    configuration = loaded(FLOATING_AND_STACKED)
    assert [resource.name for resource in configuration.resources] == ["lower", "f"]
    (upper,) = configuration.stacked
    assert upper.local.kind == "stacked"
    assert upper.local.names == ("alpha", "bravo")
    assert upper.local.volumes[0].disk == "/dev/drbd2"
    assert upper.local.volumes[0].meta_disk == "internal"
    floating = configuration.find("f")
    assert floating.local.kind == "floating"
    assert floating.peer is not None
    assert floating.peer.volumes[0].disk == "/dev/loop9"
    text = configuration.dump()
    assert "# resource upper on alpha: not ignored, stacked\n" in text
    assert "    stacked-on-top-of lower {\n        # on alpha bravo \n" in text
    assert "    floating ipv4 10.9.9.9:7800 {\n" in text


def test_a_stacked_resource_is_a_normal_one_on_its_third_node(loaded: Loaded) -> None:
    configuration = loaded(FLOATING_AND_STACKED, "gamma")
    assert [resource.name for resource in configuration.resources] == ["upper", "f"]
    assert configuration.ignored == ["lower"]
    assert "# resource lower on gamma: ignored, not stacked\n" in configuration.dump()


def test_an_empty_configuration_dumps_as_its_header(loaded: Loaded) -> None:
    configuration = loaded("")
    assert configuration.dump() == f"# {configuration.path}\n"


def test_the_global_block_prints_what_differs_from_the_defaults(loaded: Loaded) -> None:
    text = "global { usage-count ask; dialog-refresh 5; minor-count 8; disable-ip-verification; }"
    assert loaded(text).dump().splitlines()[1:] == [
        "global {",
        "    disable-ip-verification;",
        "    minor-count            8;",
        "    dialog-refresh         5;",
        "}",
        "",
    ]
    assert loaded("global { usage-count ask; }").dump().count("\n") == 1


def test_values_are_quoted_where_they_must_be(loaded: Loaded) -> None:
    text = TUTORIAL.replace(
        "startup {", r'handlers { split-brain "/x/notify \"root\""; pri-lost ""; } startup {'
    )
    dump = loaded(text).dump()
    assert '        split-brain      "/x/notify \\"root\\"";\n' in dump
    assert '        pri-lost          "";\n' in dump


def test_a_merged_dump_shows_inherited_options(loaded: Loaded) -> None:
    text = "common { net { ping-int 20; } disk { al-extents 257; } }\n" + TUTORIAL
    configuration = loaded(text)
    assert "ping-int          20" not in configuration.dump(["r0"])
    assert configuration.dump(["r0"], merged=True).count("al-extents") == 3
    common_too = text.replace("ping-int 10; ", "")
    assert "ping-int          20;" in loaded(common_too).dump(["r0"], merged=True)
