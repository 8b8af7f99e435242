"""Shared secrets: right, wrong, one-sided; a stranger never disturbs the pair."""

from __future__ import annotations

from dataclasses import replace

import pytest

from replblk.model.vocabulary import ConnState
from replblk.sim.world import SECOND_NS
from tests.support.lab import BLOCK, Lab

SHA = {"cram_hmac_alg": "sha1", "shared_secret": "FooFunFactory"}


def trying(lab: Lab, name: str) -> bool:
    return lab.state(name).conn is not ConnState.STANDALONE


def test_the_right_secret_connects() -> None:
    lab = Lab(net=SHA)
    lab.up()
    lab.in_sync()
    for name in ("alpha", "beta"):
        assert lab.told(name, "Peer authenticated using 20 bytes HMAC (sha1)")


@pytest.mark.parametrize(
    "other",
    [
        {**SHA, "shared_secret": "wrong"},
        {**SHA, "cram_hmac_alg": "sha256"},
        {"cram_hmac_alg": "", "shared_secret": ""},
    ],
    ids=["other secret", "other algorithm", "none"],
)
@pytest.mark.parametrize("odd", ["alpha", "beta"])
def test_a_wrong_secret_never_connects_but_goes_on_trying(other: dict[str, str], odd: str) -> None:
    even = "beta" if odd == "alpha" else "alpha"
    lab = Lab(net_of={odd: other, even: SHA})
    lab.boot("alpha")
    lab.boot("beta")
    lab.run_for(20)
    for name in ("alpha", "beta"):
        assert lab.state(name).conn < ConnState.CONNECTED
    assert trying(lab, even), "whoever knows no secret stopped the node"
    lab[odd].kill()
    lab[odd].resource = replace(lab[odd].resource, net=lab[even].resource.net)
    lab.boot(odd)
    lab.in_sync()


def test_the_log_says_what_is_wrong_and_what_to_do() -> None:
    lab = Lab(net_of={"alpha": SHA, "beta": {**SHA, "shared_secret": "wrong"}})
    lab.boot("alpha")
    lab.boot("beta")
    lab.run_for(5)
    for name in ("alpha", "beta"):
        assert lab.told(name, "Authentication of peer failed: check that shared-secret")
        assert not lab.told(name, "FooFunFactory")


def test_an_established_pair_accepts_no_further_connection() -> None:
    lab = Lab(net=SHA)
    lab.up()
    lab.primary("alpha")
    assert lab.beta.life is not None
    stranger = lab.network.connect(lab.beta.life, SECOND_NS)
    lab.run_for(2)
    assert not stranger.open
    lab.write("alpha", 0, b"x" * BLOCK)
    lab.in_sync()


@pytest.mark.parametrize(
    ("one", "words"),
    [
        ({"verify_alg": "sha1"}, "Different verify-alg settings"),
        ({"allow_two_primaries": True}, "incompatible allow-two-primaries settings"),
        ({"data_integrity_alg": "sha1"}, "incompatible data-integrity-alg settings"),
        ({"csums_alg": "sha1"}, "Different csums-alg settings"),
    ],
)
def test_settings_that_differ_stop_both_with_a_sentence(one: dict[str, object], words: str) -> None:
    lab = Lab(net_of={"alpha": one})
    lab.boot("alpha")
    lab.boot("beta")
    lab.run_until(
        lambda: any(m.connection is ConnState.STANDALONE for m in lab.network.machines),
        what="somebody StandAlone",
    )
    lab.run_for(5)
    assert any(lab.told(name, words) for name in ("alpha", "beta"))
