"""The start: who would be let in is said, and a node open to others refuses; tokens are minted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import jwt
import pytest

from realtime.auth.assembly import FixedKeys, fixed_keys, token_rules
from realtime.auth.claims import principal_of
from realtime.auth.exposure import check_exposure
from realtime.auth.keys import read_public_keys
from realtime.auth.minting import parse_ttl
from realtime.auth.tokens import TokenVerifier
from realtime.command import run
from realtime.settings import SettingsError, load_settings
from tests.realtime.auth.minter import SECRET
from tests.realtime.auth.signing_keys import key_of


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "only this machine"),
        ({"host": "::1"}, "only this machine"),
        ({"host": "localhost"}, "only this machine"),
        ({"jwt_secret": SECRET}, "who has a token"),
        ({"jwt_secret": SECRET, "host": "0.0.0.0"}, "who has a token"),  # noqa: S104 - not bound
        ({"insecure": True, "host": "0.0.0.0"}, "--insecure"),  # noqa: S104 - not bound
    ],
)
def test_a_start_says_who_is_let_in(given: Mapping[str, object], said: str) -> None:
    """In one line."""
    assert said in check_exposure(load_settings(**given))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "zones.example"])  # noqa: S104
def test_a_node_open_to_others_refuses_to_start(
    host: str, empty_sqlite_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line names what to do."""
    with pytest.raises(SettingsError):
        check_exposure(load_settings(host=host))
    code = run(["serve", "--host", host, "--port", "0", "--database-url", empty_sqlite_url])
    assert code == 1
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "ZONECAST_JWT_SECRET" in printed
    assert "--insecure" in printed


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"jwt_secret": "too short, hunter2"}, "ZONECAST_JWT_SECRET must have at least 32 bytes"),
        ({"jwks_url": "http://keys.example/"}, "ZONECAST_JWKS_URL must begin with https://"),
        ({"jwks_url": "ftp://keys.example/"}, "ZONECAST_JWKS_URL must be"),
        ({"jwks_url": "https://u:hunter2@keys.example/"}, "ZONECAST_JWKS_URL must be"),
        ({"allowed_origins": "app.example"}, "ZONECAST_ALLOWED_ORIGINS: not an origin"),
        ({"token_max_bytes": 1}, "ZONECAST_TOKEN_MAX_BYTES: "),
    ],
)
def test_keys_that_can_t_be_used_are_named(given: Mapping[str, object], said: str) -> None:
    """Without the value."""
    with pytest.raises(SettingsError) as caught:
        load_settings(**given)
    assert str(caught.value).startswith(said)
    assert "hunter2" not in str(caught.value)


def test_a_key_file_that_can_t_be_read_stops_the_start(
    empty_sqlite_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before anything listens."""
    monkeypatch.setenv("ZONECAST_JWT_PUBLIC_KEY_FILE", str(tmp_path / "none.pem"))
    assert run(["serve", "--port", "0", "--database-url", empty_sqlite_url]) == 1
    assert "ZONECAST_JWT_PUBLIC_KEY_FILE: cannot be read" in capsys.readouterr().err


def test_a_minted_token_is_one_that_a_node_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is all that is printed on standard output; what it grants goes beside it."""
    monkeypatch.setenv("ZONECAST_JWT_SECRET", SECRET)
    monkeypatch.setenv("ZONECAST_JWT_AUDIENCE", "us")
    monkeypatch.setenv("ZONECAST_JWT_ISSUER", "them")
    arguments = ["--sub", "ada", "--zones", "F1-* F2-Z1", "--scope", "read write", "--ttl", "1h"]
    assert run(["token", *arguments]) == 0
    printed = capsys.readouterr()
    token = printed.out.strip()
    assert token.count(".") == 2
    settings = load_settings()
    verifier = TokenVerifier([fixed_keys(settings)], token_rules(settings))
    claims = verifier.verify(token)
    assert claims["exp"] - claims["iat"] == 3_600
    principal = principal_of(claims, token_rules(settings).claims, claims["iat"])
    assert principal.zones.has("F1-Z9")
    assert not principal.zones.has("F2-Z2")
    assert "ada" in printed.err
    assert "F1-*, F2-Z1" in printed.err
    assert claims["jti"] in printed.err
    assert token not in printed.err


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_token_is_minted_with_a_private_key(
    algorithm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The kind of key says the algorithm."""
    key = key_of(algorithm)
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    private.write_bytes(key.private_pem)
    public.write_bytes(key.public_pem)
    asked = ["token", "--sub", "ada", "--private-key-file", str(private), "--key-id", "k1"]
    assert run(asked) == 0
    token = capsys.readouterr().out.strip()
    assert jwt.get_unverified_header(token) == {"alg": algorithm, "kid": "k1", "typ": "JWT"}
    keys = FixedKeys(read_public_keys(public))
    assert TokenVerifier([keys], token_rules(load_settings())).verify(token)["sub"] == "ada"


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (["--sub", "ada"], "nothing to sign with", 1),
        (["--sub", "ada", "--ttl", "soon"], "not a duration", 2),
        (["--sub", "ada", "--scope", "reed"], "no such scope", 2),
        (["--sub", "ada", "--private-key-file", "/none"], "cannot be read", 1),
        (["--sub", "ada", "--zones", "F1/Z1", "--private-key-file", "/none"], "zone pattern", 1),
        (["--sub", "ada", "--ttl", "365d", "--private-key-file", "/none"], "may live", 1),
        ([], "--sub", 2),
    ],
)
def test_a_token_that_can_t_be_minted_is_told_in_one_line(
    arguments: list[str], said: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is wrong, and no traceback."""
    assert run(["token", *arguments]) == code
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.parametrize("text", ["", "1", "h", "-1h", "1.5h", "0s", "1w", "1h30m", "9" * 20 + "s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    """A number with its unit, and nothing else."""
    with pytest.raises(ValueError, match="not a duration"):
        parse_ttl(text)
    assert json.dumps(parse_ttl("2d")) == "172800"
