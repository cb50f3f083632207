"""The deployment: compose file, image and secrets are what their own tools accept."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from realtime.settings import PREFIX, Settings
from tests.conftest import REQUIRES

ROOT = Path(__file__).resolve().parent.parent
SERVICES = {
    "postgres",
    "redis",
    "migrate",
    "node-1",
    "node-2",
    "load-balancer",
    "prometheus",
    "grafana",
}


def compose() -> dict[str, Any]:
    parsed = yaml.safe_load((ROOT / "compose.yaml").read_text())
    assert isinstance(parsed, dict)
    return parsed


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=50, check=False)


def compose_command() -> list[str]:
    """Find what reads compose files."""
    if shutil.which("docker") and run("docker", "compose", "version").returncode == 0:
        return ["docker", "compose"]
    if found := shutil.which("docker-compose"):
        return [found]
    pytest.skip(f"{REQUIRES}docker compose: install docker-compose")


def test_compose_itself_accepts_the_file() -> None:
    """Every service is there once anchors and files are resolved."""
    done = run(*compose_command(), "-f", "compose.yaml", "config")
    assert done.returncode == 0, done.stderr
    assert set(yaml.safe_load(done.stdout)["services"]) == SERVICES


def test_compose_refuses_a_file_with_a_misspelt_key(tmp_path: Path) -> None:
    """Or the test above would prove nothing."""
    text = (ROOT / "compose.yaml").read_text().replace("cap_drop:", "cap_dorp:", 1)
    (tmp_path / "compose.yaml").write_text(text)
    assert run(*compose_command(), "-f", "compose.yaml", "config", cwd=tmp_path).returncode != 0


def test_the_servers_come_first_then_the_schema_then_nodes_then_the_balancer() -> None:
    """Each waits until what it needs is healthy, or done."""
    services = compose()["services"]
    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name in ("node-1", "node-2"):
        waits = services[name]["depends_on"]
        assert waits["migrate"] == {"condition": "service_completed_successfully"}
        assert waits["redis"] == {"condition": "service_healthy"}
        assert services["load-balancer"]["depends_on"][name] == {"condition": "service_healthy"}
        assert "/readyz" in services[name]["healthcheck"]["test"][-1]


def test_every_service_is_bounded_comes_back_and_says_how_it_is() -> None:
    """Memory, processors, logs, restarts, health."""
    for name, service in compose()["services"].items():
        limits = service["deploy"]["resources"]["limits"]
        assert {"cpus", "memory"} <= limits.keys(), name
        assert service["restart"] in {"unless-stopped", "on-failure"}, name
        assert service["logging"]["options"]["max-size"], name
        assert service["healthcheck"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name


def test_all_but_the_database_run_without_rights_on_what_cannot_be_written() -> None:
    """PostgreSQL's image needs to change its account, and owns its volume."""
    for name, service in compose()["services"].items():
        if name != "postgres":
            assert service["read_only"] is True, name
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name


def test_no_secret_is_in_the_file_and_each_has_a_file() -> None:
    """Passwords come by file, to those that need them."""
    parsed = compose()
    used = {name for service in parsed["services"].values() for name in service.get("secrets", ())}
    assert used == parsed["secrets"].keys()
    assert all(entry["file"] == f".secrets/{name}" for name, entry in parsed["secrets"].items())
    assert not re.search(r"PASSWORD: |://\w*:\w+@", (ROOT / "compose.yaml").read_text())
    assert run("git", "check-ignore", ".secrets/database_url").returncode == 0


def test_the_script_makes_the_secrets_once_and_a_node_starts_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there already stays; nobody else can look into the folder."""
    if shutil.which("openssl") is None:
        pytest.skip(f"{REQUIRES}openssl: install openssl")
    place = tmp_path / "docs" / "operations"
    place.mkdir(parents=True)
    shutil.copy(ROOT / "docs" / "operations" / "secrets.sh", place)

    def make() -> dict[str, str]:
        done = run(place / "secrets.sh", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return {file.name: file.read_text() for file in (tmp_path / ".secrets").iterdir()}

    made = make()
    assert compose()["secrets"].keys() <= made.keys()
    assert make() == made
    assert (tmp_path / ".secrets").stat().st_mode & 0o777 == 0o700
    for name, value in compose()["services"]["node-1"]["environment"].items():
        inside = value.replace("/run/secrets", str(tmp_path / ".secrets"))
        monkeypatch.setenv(name, inside)
    settings = Settings()
    assert settings.node_name == "node-1"
    assert not settings.embedded
    assert made["postgres_password"].strip() in settings.database_url.get_secret_value()
    assert settings.redis_url is not None
    assert made["redis_conf"].split()[1] in settings.redis_url.get_secret_value()


def test_compose_and_image_name_only_settings_that_exist() -> None:
    """A renamed setting is not left behind in the deployment."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    known |= {f"{name}_FILE" for name in known}
    for name in ("compose.yaml", "Dockerfile", "docs/operations/nginx.conf"):
        named = set(re.findall(r"ZONECAST_[A-Z_]+[A-Z]", (ROOT / name).read_text()))
        assert named, name
        assert named <= known


def test_nodes_believe_the_balancer_and_the_balancer_finds_the_nodes() -> None:
    """Addresses and ports are the same in both files."""
    services = compose()["services"]
    address = services["load-balancer"]["networks"]["inside"]["ipv4_address"]
    nginx = (ROOT / "docs" / "operations" / "nginx.conf").read_text()
    targets = (ROOT / "docs" / "operations" / "prometheus.yml").read_text()
    for name in ("node-1", "node-2"):
        assert services[name]["environment"]["ZONECAST_TRUSTED_PROXIES"] == address
        assert f"server {name}:8000 " in nginx
        assert f'"{name}:8000"' in targets


def test_the_image_is_clean_by_its_linter() -> None:
    """Of all severities."""
    program = Path(sys.executable).with_name("hadolint")
    if not program.exists():
        pytest.skip(f"{REQUIRES}hadolint: install the extra `test`")
    done = run(program, "--no-color", "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_is_not_run_by_root_and_holds_what_is_served() -> None:
    """No tests, no documents, no tools to install with."""
    text = (ROOT / "Dockerfile").read_text()
    final = text.rpartition("\nFROM ")[2]
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", final, flags=re.MULTILINE)
    assert "--without-pip" in text
    copied = set(re.findall(r"^COPY (\w+) \w+$", text, flags=re.MULTILINE))
    assert copied == {"cache", "channels", "db", "migrations", "realtime"}
    assert os.access(ROOT / "docs" / "operations" / "secrets.sh", os.X_OK)
