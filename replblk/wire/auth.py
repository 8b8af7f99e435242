"""Proofs of a shared secret (HMAC), and the digests that guard data on the wire.

Algorithms go by the kernel's crypto names. The secret is at most 63 bytes and ends at its first
NUL. ``crc32c`` is CRC-32C with initial value and final inversion, stored low byte first; it guards
data but proves nothing, so it is no algorithm for the challenge.
"""

from __future__ import annotations

import hashlib
import hmac

import google_crc32c

from replblk.wire.hot import Buffer

_HASHES: dict[str, tuple[str, int]] = {
    "md5": ("md5", 16),
    "sha1": ("sha1", 20),
    "sha224": ("sha224", 28),
    "sha256": ("sha256", 32),
    "sha384": ("sha384", 48),
    "sha512": ("sha512", 64),
    "sha3-224": ("sha3_224", 28),
    "sha3-256": ("sha3_256", 32),
    "sha3-384": ("sha3_384", 48),
    "sha3-512": ("sha3_512", 64),
}
"""Kernel name -> (hashlib's name, digest bytes)."""
_CRC32C = "crc32c"
_CRC32C_BYTES = 4


def known(alg: str, *, keyed: bool = False) -> bool:
    """Whether *alg* can be used for digests or, with *keyed*, for the challenge."""
    return alg in _HASHES or (alg == _CRC32C and not keyed)


def digest_size(alg: str) -> int:
    """Bytes of a digest or response by *alg*, which is known."""
    return _CRC32C_BYTES if alg == _CRC32C else _HASHES[alg][1]


def digest(alg: str, data: Buffer) -> bytes:
    """The digest that goes in front of a block of data, or stands for it in verify and resync."""
    if alg == _CRC32C:
        whole = data if isinstance(data, bytes) else bytes(data)
        return int(google_crc32c.value(whole)).to_bytes(_CRC32C_BYTES, "little")
    return hashlib.new(_HASHES[alg][0], data, usedforsecurity=False).digest()


def response(secret: bytes, challenge: bytes, alg: str) -> bytes:
    """What proves that we know the secret: HMAC over all bytes of the peer's challenge."""
    return hmac.digest(secret.partition(b"\0")[0], challenge, _HASHES[alg][0])


def matches(expected: bytes, received: Buffer) -> bool:
    """Whether two responses are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(expected, received)
