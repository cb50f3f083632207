"""Certificates for tests: an authority, and a server on 127.0.0.1 that it vouches for."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files, all readable by the accounts that servers run under.

    Attributes:
        authority: Whom clients trust.
        certificate: The server's, for 127.0.0.1 only.
        key: The server's key.
    """

    authority: Path
    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """Return what a client needs that checks the server's name."""
        return ssl.create_default_context(cafile=str(self.authority))


def make_certificates(folder: Path) -> Certificates:
    """Make them with openssl; skips without it."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("requires openssl: install openssl")

    def run(*words: str) -> None:
        subprocess.run([openssl, *words], cwd=folder, check=True, capture_output=True, timeout=30)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    name = ("-subj", "/CN=zonecast-test")
    run("req", "-x509", *curve, *name, "-days", "2", "-keyout", "ca.key", "-out", "ca.pem")
    run("req", *curve, "-subj", "/CN=server", "-keyout", "server.key", "-out", "server.csr")
    (folder / "names.txt").write_text("subjectAltName=IP:127.0.0.1\n", encoding="utf-8")
    sign = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")
    run(
        *("x509", "-req", "-in", "server.csr", *sign),
        *("-extfile", "names.txt", "-out", "server.pem"),
    )
    for file in folder.iterdir():
        file.chmod(0o644)
    folder.chmod(0o755)
    return Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")
