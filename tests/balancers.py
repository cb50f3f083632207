"""The load balancer of compose.yaml as a local process: nginx with the very same file."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import REQUIRES
from tests.processes import Account, ServerProcess

OPERATIONS = Path(__file__).parents[1] / "docs" / "operations"


class LoadBalancer(ServerProcess):
    """nginx in front of nodes.

    Args:
        folder: For its files; holds certificate and key already.
        account: Whom it runs under, and who owns the folder.
        program: Where nginx is.
        ports: Of the nodes, in the order in which the file has them.
    """

    def __init__(
        self, folder: Path, account: Account | None, program: str, ports: Sequence[int]
    ) -> None:
        super().__init__(folder, account)
        self._program = program
        text = (OPERATIONS / "nginx.conf").read_text()
        replaced = {
            "listen 8443 ": f"listen 127.0.0.1:{self.port} ",
            "/run/secrets/": f"{folder}/",
            "/run/nginx/": f"{folder}/",
            "/dev/stdout": f"{folder}/access.log",
            **{f"node-{number}:8000": f"127.0.0.1:{port}" for number, port in enumerate(ports, 1)},
        }
        for old, new in replaced.items():
            assert old in text, f"nginx.conf no longer has {old}"
            text = text.replace(old, new)
        (folder / "nginx.conf").write_text(text)

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"https://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """Run in the foreground."""
        place = ["-p", str(self.folder), "-c", str(self.folder / "nginx.conf"), "-e", "stderr"]
        return [self._program, *place, "-g", "daemon off;"]

    async def answers(self) -> bool:
        """Tell whether it takes connections."""
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.close()
            return True
        return False


def find_nginx() -> str:
    """Return where nginx is; Debian has it where only root looks."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{REQUIRES}nginx: install nginx-light")
    return found


def make_certificate(folder: Path, scratch: Path) -> None:
    """Make a certificate for 127.0.0.1 as operators make it, and put it into `folder`."""
    if shutil.which("openssl") is None:
        pytest.skip(f"{REQUIRES}openssl: install openssl")
    place = scratch / "docs" / "operations"
    place.mkdir(parents=True)
    script = shutil.copy(OPERATIONS / "secrets.sh", place)
    subprocess.run([script], check=True, timeout=30)
    for name in ("tls_certificate", "tls_key"):
        shutil.copy(scratch / ".secrets" / name, folder)
