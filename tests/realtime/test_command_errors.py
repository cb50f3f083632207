"""What goes wrong with `zonecast` is one line and an exit code, never a trace."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import sys
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from realtime.command import run
from tests.realtime.command_line import environment, zonecast
from tests.servers import PostgresServer

SMALL_TRACE = Path(__file__).parents[2] / "docs" / "small_trace.csv"


def assert_fails(result: tuple[int, str, str], code: int, reason: str) -> None:
    """The command failed with this code and exactly one line, which gives the reason."""
    got, _, errors = result
    assert got == code, errors
    assert errors.startswith("zonecast: ")
    assert errors.count("\n") == 1
    assert reason in errors


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["dance"], "No such command 'dance'"),
        (["serve", "--colour", "red"], "--colour"),
        (["serve", "--port", "many"], "Invalid value for '--port'"),
        (["replay"], "Missing argument"),
        (["replay", "x.csv", "--speed", "fast"], "--speed: not a factor or max: fast"),
        (["replay", "x.csv", "--speed", "-1"], "--speed"),
        (["replay", "x.csv", "--batch-window", "-1"], "--batch-window"),
        (["replay", "x.csv", "--url", "here"], "not an address like http://127.0.0.1:8000"),
        (["replay", "x.csv", "--url", "http://"], "not an address like"),
        (["replay", "x.csv", "--url", "http://127.0.0.1:many"], "not an address like"),
        (["watch", "A", "--url", "http://127.0.0.1:many"], "not an address like"),
        (["watch", "A", "--url", "http://127.0.0.1:99999"], "not an address like"),
        (["watch", "A", "--url", "http://[::1"], "not an address like"),
        (["watch"], "Missing argument"),
        (["watch", "A B"], "not a zone id: A B"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is begun."""
    code = run(arguments)
    assert_fails((code, *capsys.readouterr()), 2, reason)


@pytest.mark.parametrize(
    ("arguments", "settings", "reason"),
    [
        (["serve"], {"PORT": "many"}, "ZONECAST_PORT"),
        (["serve", "--port", "70000"], {}, "ZONECAST_PORT"),
        (["serve", "--workers", "2"], {}, "needs ZONECAST_REDIS_URL"),
        (["migrate"], {"DATABASE_URL": "mysql://x"}, "ZONECAST_DATABASE_URL"),
        (["resync"], {"REDIS_URL": "redis://x:many"}, "ZONECAST_REDIS_URL"),
    ],
)
def test_a_wrong_setting_is_one_line_and_code_1(
    arguments: list[str],
    settings: dict[str, str],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It names the setting."""
    for name, value in settings.items():
        monkeypatch.setenv(f"ZONECAST_{name}", value)
    code = run(arguments)
    assert_fails((code, *capsys.readouterr()), 1, reason)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["replay", "missing.csv"], "cannot read missing.csv: No such file"),
        (["replay", str(SMALL_TRACE.parent)], "docs: Is a directory"),
        (["replay", str(SMALL_TRACE.parent), "--strict"], "docs: Is a directory"),
        (["replay", str(SMALL_TRACE), "--url", "http://127.0.0.1:1"], "nobody answers at http:"),
        (["watch", "A", "--url", "http://127.0.0.1:1"], "cannot watch http://127.0.0.1:1: "),
        (
            ["migrate", "--database-url", "postgresql+asyncpg://ada:hush@127.0.0.1:1/zonecast"],
            "database is unavailable",
        ),
    ],
)
def test_what_fails_is_one_line_and_code_1(arguments: list[str], reason: str) -> None:
    """It says what is wrong, and never a password."""
    result = zonecast(*arguments)
    assert_fails(result, 1, reason)
    assert "hush" not in result[1] + result[2]


def test_without_a_command_there_is_help_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    """And no empty line of error."""
    assert run([]) == 2
    printed, errors = capsys.readouterr()
    assert "Usage: zonecast" in printed
    assert errors == ""


def test_an_address_that_is_none_is_told(empty_sqlite_url: str) -> None:
    """A host's name that nobody knows has an error number of its own."""
    code, _, errors = zonecast(
        "serve",
        "--host",
        "nowhere.invalid",
        "--insecure",
        database_url=empty_sqlite_url,
        log_level="warning",
    )
    assert_fails((code, "", errors), 1, "cannot listen on nowhere.invalid:8000: ")
    assert "Unknown error" not in errors


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    """By every command that opens it."""
    file = tmp_path / "notes.txt"
    file.write_text("not a database, " * 100, encoding="utf-8")
    for command in ("migrate", "resync", "serve"):
        result = zonecast(command, database_url=f"sqlite+aiosqlite:///{file}", log_level="warning")
        assert_fails(result, 1, "database is unavailable: ")


def test_a_database_of_a_later_release_is_told(sqlite_url: str) -> None:
    """It is left as it is: this release does not know what its tables mean."""
    path = sqlite_url.removeprefix("sqlite+aiosqlite:///")
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    assert_fails(zonecast("migrate", database_url=sqlite_url), 1, "cannot migrate the database: ")


async def test_a_role_without_rights_is_told(
    empty_postgres_url: str, postgres_server: PostgresServer
) -> None:
    """In one line without the password, whatever else the server said."""
    role = f"weak_{make_url(empty_postgres_url).database}"
    await postgres_server.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'hush'")
    try:
        url = make_url(empty_postgres_url).set(username=role, password="hush")  # noqa: S106
        shown = url.render_as_string(hide_password=False)
        result = await asyncio.to_thread(zonecast, "migrate", database_url=shown)
        assert_fails(result, 1, "database")
        assert "hush" not in result[2]
    finally:
        await postgres_server.execute(f"DROP ROLE {role}")


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_server_that_cannot_start_fails(workers: str) -> None:
    """Whether the node runs in this process or in workers of it."""
    program = (
        "import sys\n"
        "from realtime.server import listening_socket, serve\n"
        "from realtime.settings import load_settings\n"
        "if __name__ == '__main__':\n"
        "    settings = load_settings()\n"
        "    sys.exit(serve(settings, listening_socket(settings)))\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        env=environment(
            database_url="postgresql+asyncpg://ada:hush@127.0.0.1:1/zonecast",
            redis_url="redis://127.0.0.1:1/0",
            port="0",
            workers=workers,
        ),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        printed, _ = await process.communicate()
        assert process.returncode == 1
        assert b"hush" not in printed
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
