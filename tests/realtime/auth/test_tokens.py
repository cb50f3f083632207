"""Tokens: each key checks its own algorithm, and claims are what they have to be."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from realtime.auth.assembly import FixedKeys
from realtime.auth.claims import ClaimLimits, channel_grant_of, principal_of
from realtime.auth.errors import Reason, RefusedError
from realtime.auth.keys import (
    UnusableKeyError,
    public_key,
    read_public_keys,
    secret_key,
)
from realtime.auth.principal import Scope
from realtime.auth.tokens import TokenRules, TokenVerifier
from tests.realtime.auth.minter import SECRET, Minter
from tests.realtime.auth.signing_keys import key_of

LIMITS = ClaimLimits(max_life_s=3_600, leeway_s=5)
NOW_S = int(time.time())
ALGORITHMS = ("RS256", "ES256", "EdDSA")


def verifier(*keys: Any, audience: str = "", issuer: str = "") -> TokenVerifier:
    return TokenVerifier([FixedKeys(keys)], TokenRules(audience, issuer, 4_096, LIMITS))


def claims(**changed: Any) -> dict[str, Any]:
    found = {"sub": "ada", "exp": int(time.time()) + 60, **changed}
    return {name: value for name, value in found.items() if value is not None}


def forged(header: dict[str, Any], body: dict[str, Any], secret: bytes) -> str:
    """Sign by HMAC whatever the library would refuse to."""
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, body)
    ]
    signed = b".".join(parts)
    signature = hmac.new(secret, signed, hashlib.sha256).digest()
    return (signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def refusal(found: TokenVerifier, token: str) -> Reason:
    with pytest.raises(RefusedError) as caught:
        found.verify(token)
    assert token not in caught.value.detail or len(token) < 5
    return caught.value.reason


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_token_signed_by_the_private_key_is_good(algorithm: str) -> None:
    """Each algorithm, among keys of all others."""
    keys = [public_key(key_of(name).private.public_key()) for name in ALGORITHMS]
    found = verifier(secret_key(SECRET.encode()), *keys)
    assert found.verify(key_of(algorithm).sign(claims()))["sub"] == "ada"
    assert refusal(found, key_of(algorithm, 1).sign(claims())) is Reason.SIGNATURE


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_public_key_is_no_secret(algorithm: str) -> None:
    """HMAC with the bytes of a public key, the classic confusion, finds no key."""
    key = key_of(algorithm)
    found = verifier(public_key(key.private.public_key()))
    for secret in (key.public_pem, key.public_pem.strip()):
        token = forged({"alg": "HS256", "typ": "JWT"}, claims(), secret)
        assert refusal(found, token) is Reason.ALGORITHM


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"},
        {"alg": "None"},
        {"alg": ""},
        {"alg": None},
        {"alg": ["HS256"]},
        {},
        {"alg": "HS512"},
        {"alg": "PS256"},
    ],
)
def test_other_algorithms_find_no_key(header: dict[str, Any]) -> None:
    """The token doesn't choose how it is checked."""
    token = forged(header, claims(), SECRET.encode())
    found = verifier(secret_key(SECRET.encode()))
    assert refusal(found, token) in {Reason.ALGORITHM, Reason.MALFORMED}


def test_a_key_in_the_header_of_a_token_is_not_used() -> None:
    """Neither a key nor an address of one that the token brings along."""
    key = key_of("RS256", 2)
    found = verifier(public_key(key_of("RS256").private.public_key()))
    for extra in ({"jwk": key.jwk("x")}, {"jku": "https://evil.example/keys"}, {"x5c": ["x"]}):
        token = jwt.encode(claims(), key.private, "RS256", extra)
        assert refusal(found, token) is Reason.SIGNATURE


@pytest.mark.parametrize("extra", [{"crit": ["exp"], "exp": 1}, {"b64": False}, {"kid": 7}])
def test_headers_that_are_not_understood_refuse_the_token(extra: dict[str, Any]) -> None:
    """A critical extension that is ignored would be a hole (RFC 7515, section 4.1.11)."""
    token = forged({"alg": "HS256", **extra}, claims(), SECRET.encode())
    assert refusal(verifier(secret_key(SECRET.encode())), token) is Reason.MALFORMED


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("", Reason.MALFORMED),
        ("a.b.c", Reason.MALFORMED),
        ("é" * 10, Reason.MALFORMED),
        ("a" * 5_000, Reason.MALFORMED),
        ("eyJhbGciOiJIUzI1NiJ9.e30", Reason.MALFORMED),
    ],
)
def test_what_is_no_token_is_refused(token: str, reason: Reason) -> None:
    """Whatever it is, it costs little, and is not quoted."""
    assert refusal(verifier(secret_key(SECRET.encode())), token) is reason


def test_claims_nested_beyond_reason_are_refused() -> None:
    """The parser's limit is an answer, not a crash."""
    header = base64.urlsafe_b64encode(b'{"alg":"HS256"}').rstrip(b"=")
    body = base64.urlsafe_b64encode(b'{"a":' + b"[" * 2_900).rstrip(b"=")
    signature = hmac.new(SECRET.encode(), header + b"." + body, hashlib.sha256).digest()
    token = (header + b"." + body + b"." + base64.urlsafe_b64encode(signature)).decode()
    assert refusal(verifier(secret_key(SECRET.encode())), token) is Reason.MALFORMED


def test_audience_and_issuer_are_those_of_the_settings() -> None:
    """A token for another service is none for this one; one that names nobody neither."""
    key = secret_key(SECRET.encode())
    minter = Minter(audience="us", issuer="them")
    strict = verifier(key, audience="us", issuer="them")
    assert strict.verify(minter.token())
    assert strict.verify(minter.token(aud=["others", "us"]))
    assert refusal(strict, minter.token(aud="others")) is Reason.AUDIENCE
    assert refusal(strict, minter.token(aud=None)) is Reason.AUDIENCE
    assert refusal(strict, minter.token(iss="x")) is Reason.ISSUER
    assert refusal(strict, minter.token(iss=None)) is Reason.ISSUER
    # Without an audience of our own, one that names any is meant for somebody else.
    assert refusal(verifier(key), minter.token()) is Reason.AUDIENCE


def test_times_are_kept_but_for_the_leeway() -> None:
    """Clocks may be apart as far as the settings say, and no farther."""
    found = verifier(secret_key(SECRET.encode()))
    now_s = int(time.time())
    good = [claims(exp=now_s - 2), claims(nbf=now_s + 3), claims(iat=now_s + 3)]
    for body in good:
        assert found.verify(jwt.encode(body, SECRET, "HS256"))
    wrong = {
        Reason.EXPIRED: [claims(exp=now_s - 30)],
        Reason.NOT_YET: [claims(nbf=now_s + 30), claims(iat=now_s + 30)],
        Reason.CLAIMS: [claims(exp=None), claims(sub=None), claims(exp="soon"), claims(nbf="x")],
    }
    for reason, bodies in wrong.items():
        for body in bodies:
            assert refusal(found, forged({"alg": "HS256"}, body, SECRET.encode())) is reason, body


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"sub": ""}, "sub"),
        ({"sub": 7}, "sub"),
        ({"sub": "a\nb"}, "sub"),
        ({"sub": "x" * 256}, "sub"),
        ({"exp": True}, "exp"),
        ({"exp": NOW_S + 4_000}, "exp"),
        ({"iat": NOW_S - 4_000}, "exp"),
        ({"iat": "1"}, "iat"),
        ({"jti": 7}, "jti"),
        ({"scope": ["read"]}, "scope"),
        ({"zones": "F1-*"}, "zones"),
        ({"zones": [7]}, "zones"),
        ({"zones": ["F1 Z1"]}, "zones"),
        ({"zones": ["a"] * 257}, "zones"),
        ({"channel": "zone:A"}, "one channel"),
    ],
)
def test_a_claim_of_the_wrong_kind_refuses_the_token(changed: dict[str, Any], said: str) -> None:
    """What is not understood grants nothing; the words say which claim it is."""
    body = {"sub": "ada", "iat": NOW_S, "exp": NOW_S + 60, **changed}
    with pytest.raises(RefusedError, match=said) as caught:
        principal_of(body, LIMITS, NOW_S)
    assert caught.value.reason is Reason.CLAIMS


def test_claims_become_a_principal() -> None:
    """What is left out grants nothing; scopes of other services are not ours."""
    body = {"sub": "ada", "iat": NOW_S, "exp": NOW_S + 60, "scope": "read openid", "jti": "t"}
    found = principal_of({**body, "zones": ["F1-*"]}, LIMITS, NOW_S)
    assert found.scopes == {Scope.READ}
    assert found.zones.has("F1-Z1")
    assert not found.zones.has("F2-Z1")
    assert (found.subject, found.token_id, found.issued_at_s) == ("ada", "t", NOW_S)
    assert found.expires_at_s == NOW_S + 65
    bare = principal_of({"sub": "ada", "exp": NOW_S + 60}, LIMITS, NOW_S)
    assert not bare.scopes
    assert not bare.zones.granted
    # As early as it can be: a revocation meets it for as long as it may live.
    assert bare.issued_at_s == NOW_S + 60 - LIMITS.max_life_s


def test_a_subscription_token_is_for_its_channel_and_nothing_else() -> None:
    """It has a channel and no grants of its own."""
    body = {"sub": "ada", "exp": NOW_S + 60, "channel": "zone:A"}
    grant = channel_grant_of(body, LIMITS, NOW_S)
    assert (grant.principal.subject, grant.channel) == ("ada", "zone:A")
    for wrong in ({"channel": ""}, {"channel": 7}, {"zones": ["*"]}, {"scope": "read"}):
        with pytest.raises(RefusedError):
            channel_grant_of({**body, **wrong}, LIMITS, NOW_S)


def test_keys_that_can_be_guessed_or_confused_are_refused(tmp_path: Path) -> None:
    """Short secrets and keys, unknown curves, and private keys where public ones belong."""
    with pytest.raises(UnusableKeyError, match="32 bytes"):
        secret_key(b"x" * 31)
    with pytest.raises(UnusableKeyError, match="2048 bits"):
        public_key(rsa.generate_private_key(65_537, 1_024).public_key())  # noqa: S505 - refused
    with pytest.raises(UnusableKeyError, match="P-256"):
        public_key(ec.generate_private_key(ec.SECP384R1()).public_key())
    file = tmp_path / "keys.pem"
    for content, said in (
        (key_of("ES256").private_pem, "private key"),
        (b"", "1 to 64"),
        (b"x" * 300_000, "larger"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no public key"),
    ):
        file.write_bytes(content)
        with pytest.raises(UnusableKeyError, match=said):
            read_public_keys(file)
    with pytest.raises(UnusableKeyError, match="cannot be read"):
        read_public_keys(tmp_path / "none.pem")


def test_a_file_may_hold_several_keys(tmp_path: Path) -> None:
    """While one replaces another, tokens of both are good."""
    keys = [key_of(name) for name in ALGORITHMS]
    file = tmp_path / "keys.pem"
    pem = b"\n".join(key.public_pem for key in keys)
    old = keys[0].private.public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1)
    file.write_bytes(b"# ours\n" + pem + old)
    found = verifier(*read_public_keys(file))
    for key in keys:
        assert found.verify(key.sign(claims()))
