"""Settings: wrong values are named, combinations that can't work refused, documents true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from realtime.settings import Settings, SettingsError, load_settings, settings_table

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"port": 70_000}, "ZONECAST_PORT: "),
        ({"pool_size": 0}, "ZONECAST_POOL_SIZE: "),
        ({"log_level": "loud"}, "ZONECAST_LOG_LEVEL: "),
        ({"database_url": "mysql://u:secret@h/x"}, "ZONECAST_DATABASE_URL: must begin with"),
        ({"database_url": "not a url"}, "ZONECAST_DATABASE_URL: must begin with"),
        (
            {"database_url": "postgresql+asyncpg://u:p@h:secret/x"},
            "ZONECAST_DATABASE_URL: cannot be read",
        ),
        (
            {"database_url": "postgresql+asyncpg://u:secret@h/x?sslmode=require"},
            "ZONECAST_DATABASE_URL: may have only",
        ),
        (
            {"database_url": "postgresql+asyncpg://u:secret@h/x?port=many"},
            "ZONECAST_DATABASE_URL: has an option",
        ),
        ({"redis_url": "http://u:secret@h"}, "ZONECAST_REDIS_URL: must begin with"),
        ({"otel_endpoint": "collector:4318"}, "ZONECAST_OTEL_ENDPOINT: must be an http://"),
        ({"otel_endpoint": "http://u:secret@h"}, "ZONECAST_OTEL_ENDPOINT: must be an http://"),
        ({"otel_endpoint": "http://h?key=secret"}, "ZONECAST_OTEL_ENDPOINT: must be an http://"),
        ({"otel_endpoint": "http://h:secret"}, "ZONECAST_OTEL_ENDPOINT: must be an http://"),
        ({"redis_url": "redis://:secret@h:many"}, "ZONECAST_REDIS_URL: not a Redis URL"),
        ({"redis_url": "redis://:secret@h/first"}, "ZONECAST_REDIS_URL: not a Redis URL"),
        ({"trusted_proxies": "proxy.example"}, "ZONECAST_TRUSTED_PROXIES: must be addresses"),
        ({"trusted_proxies": "*"}, "ZONECAST_TRUSTED_PROXIES: must be addresses"),
        ({"trusted_proxies": "10.0.0.1/8"}, "ZONECAST_TRUSTED_PROXIES: must be addresses"),
        ({"workers": 2}, "ZONECAST_WORKERS above 1 needs ZONECAST_REDIS_URL"),
        ({"redis_url": "redis://h"}, "ZONECAST_REDIS_URL needs PostgreSQL"),
        ({"head_check_interval_s": 5}, "ZONECAST_HEAD_CHECK_INTERVAL_S: "),
        ({"retention_max_changes": 299}, "ZONECAST_RETENTION_MAX_CHANGES must not be below"),
    ],
)
def test_a_wrong_value_is_named_in_one_line_without_the_value(
    given: dict[str, object], said: str
) -> None:
    """The message names the variable, and never shows a password."""
    with pytest.raises(SettingsError) as caught:
        load_settings(**given)
    message = str(caught.value)
    assert message.startswith(said)
    assert "\n" not in message
    assert "secret" not in message


def test_a_variable_of_the_environment_is_read_and_an_option_goes_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Options of the command line win over the environment."""
    monkeypatch.setenv("ZONECAST_PORT", "9001")
    assert load_settings().port == 9001
    assert load_settings(port=9002, host=None).port == 9002


def test_secrets_are_not_shown() -> None:
    """A settings object may be logged."""
    settings = Settings(
        database_url="postgresql+asyncpg://u:hunter2@h/x",  # type: ignore[arg-type]  # parsed
        redis_url="redis://:hunter2@h",  # type: ignore[arg-type]  # parsed by pydantic
        jwt_secret="hunter2" * 5,  # type: ignore[arg-type]  # parsed by pydantic
    )
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(settings.model_dump())


def test_the_configuration_page_is_complete_and_true() -> None:
    """The page is what the settings say of themselves."""
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page.endswith(settings_table())


def test_the_readme_table_agrees_with_the_settings() -> None:
    """Each row of the short table stands in the long one."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `ZONECAST_.*$", readme, re.MULTILINE)
    assert len(rows) >= 8
    for row in rows:
        assert row in settings_table()
