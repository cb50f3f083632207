"""Secrets by file: read, and refused in words that hold no secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from realtime.settings import SettingsError, load_settings

URL = "postgresql+asyncpg://zonecast:hush@db/zonecast"


def test_a_secret_is_read_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the line is not a part of it."""
    file = tmp_path / "database_url"
    file.write_text(URL + "\n")
    monkeypatch.setenv("ZONECAST_DATABASE_URL_FILE", str(file))
    assert load_settings().database_url.get_secret_value() == URL
    given = "postgresql+asyncpg://other@db/zonecast"
    assert load_settings(database_url=given).database_url.get_secret_value() == given


def test_only_secrets_are_read_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port isn't one."""
    file = tmp_path / "port"
    file.write_text("9001")
    monkeypatch.setenv("ZONECAST_PORT_FILE", str(file))
    assert load_settings().port == 8000


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "ZONECAST_REDIS_URL_FILE: No such file or directory"),
        (b"", "ZONECAST_REDIS_URL_FILE: the file is empty"),
        (b"\xff\xfe", "ZONECAST_REDIS_URL_FILE: the file is no text"),
        (b"hush" * 20_000, "ZONECAST_REDIS_URL_FILE: the file is too large"),
        (b"http://:hush@h", "ZONECAST_REDIS_URL: must begin with"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, said: str
) -> None:
    """In one line, without what is in it."""
    file = tmp_path / "redis_url"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("ZONECAST_REDIS_URL_FILE", str(file))
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value).startswith(said)
    assert "hush" not in str(caught.value)


def test_a_secret_given_twice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would know which of them counts."""
    file = tmp_path / "database_url"
    file.write_text(URL)
    monkeypatch.setenv("ZONECAST_DATABASE_URL_FILE", str(file))
    monkeypatch.setenv("ZONECAST_DATABASE_URL", URL)
    with pytest.raises(SettingsError, match="both set"):
        load_settings()
