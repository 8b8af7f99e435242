"""Digests and responses against published test vectors."""

from __future__ import annotations

import pytest

from replblk.wire import auth


@pytest.mark.parametrize(
    ("alg", "of_123456789"),
    [
        ("crc32c", "839206e3"),  # 0xe3069283, low byte first
        ("md5", "25f9e794323b453885f5181f1b624d0b"),
        ("sha1", "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
        ("sha256", "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"),
    ],
)
def test_digests_are_the_kernels(alg: str, of_123456789: str) -> None:
    for data in (b"123456789", bytearray(b"123456789"), memoryview(b"123456789")):
        assert auth.digest(alg, data).hex() == of_123456789


@pytest.mark.parametrize(
    "alg",
    [
        "crc32c",
        "md5",
        "sha1",
        "sha224",
        "sha256",
        "sha384",
        "sha512",
        "sha3-224",
        "sha3-256",
        "sha3-384",
        "sha3-512",
    ],
)
def test_digests_are_as_long_as_promised(alg: str) -> None:
    assert auth.known(alg)
    assert len(auth.digest(alg, b"")) == auth.digest_size(alg) <= 64


def test_response_is_hmac_as_published() -> None:
    """RFC 2202, test case 2."""
    wanted = "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"
    assert auth.response(b"Jefe", b"what do ya want for nothing?", "sha1").hex() == wanted


def test_the_secret_ends_at_its_first_nul() -> None:
    assert auth.response(b"key\0rest", b"c" * 64, "sha256") == auth.response(
        b"key", b"c" * 64, "sha256"
    )


def test_unknown_algorithms_are_known_as_such() -> None:
    assert not auth.known("")
    assert not auth.known("sha3_256")
    assert not auth.known("crc32c", keyed=True), "a checksum proves nothing"
    assert auth.known("sha1", keyed=True)


def test_only_equal_responses_match() -> None:
    assert auth.matches(b"abc", memoryview(b"abc"))
    assert not auth.matches(b"abc", b"abd")
    assert not auth.matches(b"abc", b"ab")
