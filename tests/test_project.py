"""The repository as a whole: what a wheel contains, what is pinned, what is never named."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.addresses import files_of, offences, offences_in

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("cache", "channels", "db", "migrations", "realtime")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the tracked files alone."""
    source = tmp_path_factory.mktemp("source")
    for file in files_of(ROOT):
        target = source / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.is_file():
            shutil.copy(file, target)
    output = tmp_path_factory.mktemp("wheel")
    program = f"from setuptools.build_meta import build_wheel; build_wheel({str(output)!r})"
    subprocess.run(
        [sys.executable, "-c", program], cwd=source, check=True, capture_output=True, timeout=50
    )
    return next(output.glob("*.whl"))


def test_a_wheel_contains_every_file_of_the_packages_and_no_other(wheel: Path) -> None:
    """Migrations and static files are not forgotten, tests are not shipped."""
    with zipfile.ZipFile(wheel) as archive:
        shipped = {name for name in archive.namelist() if ".dist-info/" not in name}
    tracked = {file.relative_to(ROOT) for file in files_of(ROOT) if file.is_file()}
    assert shipped == {str(file) for file in tracked if file.parts[0] in PACKAGES}


def test_a_wheel_migrates_a_database_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """The installed `zonecast` finds its migrations inside the package."""
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    program = (
        "import sys, realtime.command\n"
        f"assert realtime.command.__file__.startswith({str(site)!r}), realtime.command.__file__\n"
        "sys.argv = ['zonecast', 'migrate']\n"
        "realtime.command.main()"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program],
        cwd=work,
        env=os.environ
        | {"PYTHONPATH": str(site), "ZONECAST_DATABASE_URL": "sqlite+aiosqlite:///made.db"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert (work / "made.db").stat().st_size > 0


def test_no_tracked_file_names_an_address_of_a_download_or_of_somebodys_machine() -> None:
    """A clone depends on no host and tells about none."""
    assert offences_in(ROOT) == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("a.txt", "pkg @ https://example" + ".com/pkg-1.0-py3-none-any.whl"),
        ("package-lock.json", '"resolved": "https' + '://example.com/ws"'),
        ("a.toml", 'url = "https://py' + 'pi.org/simple"'),
        ("page.html", "<script src='//cdn.js" + "delivr.net/npm/x'>"),
        ("notes.md", "lies in /ho" + "me/ada/zonecast"),
        ("deep/uv" + ".lock", ""),
    ],
)
def test_an_address_is_found(path: str, text: str) -> None:
    """Each kind of address is an offence of its line."""
    assert [line.split(":")[:2] for line in offences(path, text)] == [[path, "1"]]


def test_ordinary_addresses_are_no_offence() -> None:
    """Links to documents and paths of the API may be written down."""
    text = "http://127.0.0.1:8000/docs, see https://example.com/spec.html, GET /users/tmp/x"
    assert list(offences("README.md", text)) == []


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def declared() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    return [Requirement(text) for group in groups for text in group]


def test_every_pin_is_one_version_without_an_address() -> None:
    """`constraints.txt` says name and version, nothing else."""
    for pin in pins().values():
        assert pin.url is None
        assert re.fullmatch(r"==[\w.+!]+", str(pin.specifier)), str(pin)


def test_pins_satisfy_what_the_project_declares() -> None:
    """A range that was raised without renewing the pins is noticed."""
    for requirement in declared():
        pin = pins()[canonicalize_name(requirement.name)]
        version = str(pin.specifier).removeprefix("==")
        assert requirement.specifier.contains(version), f"{requirement} is pinned to {version}"


def closure(requirements: list[Requirement]) -> Iterator[str]:
    seen = set()
    waiting = [(requirement, "") for requirement in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        key = (canonicalize_name(requirement.name), tuple(requirement.extras), extra)
        if key in seen or (
            requirement.marker and not requirement.marker.evaluate({"extra": extra})
        ):
            continue
        seen.add(key)
        yield key[0]
        try:
            needed = metadata.requires(requirement.name) or []
        except metadata.PackageNotFoundError:
            continue  # Of a group that isn't installed here; its own name is pinned all the same.
        for text in needed:
            waiting += [(Requirement(text), name) for name in ("", *requirement.extras)]


def test_everything_that_gets_installed_is_pinned() -> None:
    """No dependency of a dependency floats."""
    assert set(closure(declared())) <= pins().keys()


def test_npm_packages_are_pinned_by_content_without_addresses() -> None:
    """The lock tells what each package must be, not where it lies."""
    packages = json.loads((ROOT / "tests/clients/package-lock.json").read_text())["packages"]
    installed = {name: package for name, package in packages.items() if name}
    assert {"node_modules/centrifuge", "node_modules/ws"} <= installed.keys()
    for package in installed.values():
        assert package["integrity"].startswith("sha512-")
        assert "resolved" not in package


def run_dev(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "dev.py", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_dev_without_a_command_teaches() -> None:
    """It lists the commands."""
    answer = run_dev("--help")
    assert answer.returncode == 0
    for command in ("run", "test", "check", "fix", "bench"):
        assert f"dev.py {command}" in answer.stdout
    assert run_dev().stdout == answer.stdout


def test_dev_answers_an_unknown_command_in_one_line() -> None:
    """It names what there is."""
    answer = run_dev("tset")
    assert answer.returncode == 2
    assert answer.stderr.count("\n") == 1
    assert "'tset'" in answer.stderr
    assert "test" in answer.stderr.split("there are")[1]


def test_ci_requires_all_and_runs_the_same_check() -> None:
    """`.ci/run` is executable, sets the switch, and calls what developers call."""
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "ZONECAST_REQUIRE_ALL=1" in script.read_text()
    assert "python3 dev.py check" in script.read_text()
