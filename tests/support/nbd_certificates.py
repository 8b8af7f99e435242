"""Certificates for TLS tests, made by openssl: an authority, a server on localhost, a client."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.tools import need


def certificates(folder: Path) -> Path:
    """Make *folder* as nbdkit, qemu and libnbd expect it, for servers and clients."""
    need("openssl")
    folder.mkdir()
    _openssl(
        *(
            "req",
            "-x509",
            "-nodes",
            *_new_key(folder / "ca-key.pem"),
            "-subj",
            "/CN=test authority",
        ),
        *("-days", "2", "-out", folder / "ca-cert.pem"),
        *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
    )
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n"
    _sign(folder, "server", "localhost", names)
    _sign(folder, "client", "a client", "extendedKeyUsage=clientAuth\n")
    return folder


def _sign(folder: Path, who: str, subject: str, extensions: str) -> None:
    request, rules = folder / f"{who}.csr", folder / f"{who}.ext"
    rules.write_text(extensions)
    _openssl(
        *("req", "-nodes", *_new_key(folder / f"{who}-key.pem")),
        *("-subj", f"/CN={subject}", "-out", request),
    )
    _openssl(
        *("x509", "-req", "-in", request, "-CA", folder / "ca-cert.pem"),
        *("-CAkey", folder / "ca-key.pem", "-CAcreateserial", "-days", "2"),
        *("-extfile", rules, "-out", folder / f"{who}-cert.pem"),
    )


def _new_key(path: Path) -> tuple[str | Path, ...]:
    return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", path)


def _openssl(*words: str | Path) -> None:
    command = ["openssl", *(str(word) for word in words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stderr}"


def revoke_client(folder: Path) -> None:
    """Write ca-crl.pem, which names the client's certificate."""
    _crl(folder, "-revoke", str(folder / "client-cert.pem"))
    _crl(folder, "-gencrl", "-out", str(folder / "ca-crl.pem"))


def empty_crl(folder: Path) -> None:
    """Write ca-crl.pem, which names nobody."""
    _crl(folder, "-gencrl", "-out", str(folder / "ca-crl.pem"))


def _crl(folder: Path, *words: str) -> None:
    rules, index = folder / "ca.conf", folder / "index.txt"
    index.touch()
    rules.write_text(
        f"[ca]\ndefault_ca = own\n[own]\ndatabase = {index}\ndefault_md = sha256\n"
        "default_crl_days = 2\n"
    )
    authority = ("-keyfile", folder / "ca-key.pem", "-cert", folder / "ca-cert.pem")
    _openssl("ca", "-config", rules, *authority, *words)
