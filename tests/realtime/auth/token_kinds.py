"""Tokens of every kind, for the tables of who may do what."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import jwt

from tests.realtime.auth.minter import OTHER_SECRET, Minter

HERE, ELSEWHERE = "F1-Z1", "F2-Z1"


def invalid_tokens(minter: Minter) -> Iterator[tuple[str, str | None]]:
    """Yield what lets nobody in."""
    now_s = int(time.time())
    everything = {"zones": ["*"], "scope": "read write admin"}
    yield "none", None
    yield "nonsense", "nonsense"
    yield "empty parts", ".."
    yield "expired", minter.token(**everything, iat=now_s - 900, exp=now_s - 300)
    yield "not valid yet", minter.token(**everything, nbf=now_s + 300)
    yield "issued in the future", minter.token(**everything, iat=now_s + 300, exp=now_s + 900)
    yield "wrong audience", minter.token(**everything, aud="other")
    yield "no audience", minter.token(**everything, aud=None)
    yield "wrong issuer", minter.token(**everything, iss="other")
    yield "wrong signature", Minter(secret=OTHER_SECRET).token(**everything)
    yield "no exp", minter.token(**everything, exp=None)
    yield "no sub", minter.token(**everything, sub=None)
    yield "lives for ever", minter.token(**everything, exp=now_s + 10**9)
    yield "zones of the wrong kind", minter.token(zones="*", scope="read")
    yield "for one channel", minter.token(channel=f"zone:{HERE}")
    yield "revoked subject", minter.token(**everything, sub="eve", iat=now_s - 60)
    yield "revoked token", minter.token(**everything, jti="stolen")
    yield "altered", altered(minter.token(zones=[], scope=""), everything)
    yield "alg none", unsigned(minter.claims(**everything))


def altered(token: str, claims: dict[str, Any]) -> str:
    header, payload, signature = token.split(".")
    found = json.loads(base64.urlsafe_b64decode(payload + "=="))
    changed = json.dumps({**found, **claims}).encode()
    return ".".join((header, base64.urlsafe_b64encode(changed).rstrip(b"=").decode(), signature))


def unsigned(claims: dict[str, Any]) -> str:
    return jwt.encode(claims, "", "none")


VALID: dict[str, tuple[str, list[str], str]] = {
    "nothing": ("", [], ""),
    "read elsewhere": ("read", [ELSEWHERE], ""),
    "read here": ("read", [HERE], "read here"),
    "read by pattern": ("read", ["F1-*"], "read here"),
    "read all": ("read", ["*"], "read all"),
    "write elsewhere": ("write", [ELSEWHERE], ""),
    "write here": ("write", [HERE], "write here"),
    "write by pattern": ("write", ["*-Zx", "F1-*"], "write here"),
    "write all": ("write", ["*"], "write all"),
    "admin": ("admin", ["*"], "admin"),
    "read here with all taken": ("read", ["*"], ""),
}
