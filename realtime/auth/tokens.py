"""Tokens: signed claims (JWT), checked against the keys and the settings. Nothing here awaits."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import jwt
from jwt import exceptions

from realtime.auth.claims import ClaimLimits
from realtime.auth.errors import Reason, RefusedError
from realtime.auth.keys import EDDSA, ES256, HS256, KEY_ID_MAX_CHARS, RS256, Key, candidates

ALGORITHMS: Final = (HS256, RS256, ES256, EDDSA)
MAX_CANDIDATES: Final = 8
"""Keys tried for a token that names none; a signature costs up to a tenth of a millisecond."""

_REFUSALS: Final[Mapping[type[exceptions.PyJWTError], tuple[Reason, str]]] = {
    exceptions.ExpiredSignatureError: (Reason.EXPIRED, "the token has expired"),
    exceptions.ImmatureSignatureError: (Reason.NOT_YET, "the token is not valid yet"),
    exceptions.InvalidAudienceError: (Reason.AUDIENCE, "the token is for another audience"),
    exceptions.InvalidIssuerError: (Reason.ISSUER, "the token is of another issuer"),
    exceptions.InvalidIssuedAtError: (Reason.CLAIMS, "iat: must be a time, Unix seconds"),
}


class KeySource(Protocol):
    """Who knows the keys. No method awaits."""

    @property
    def keys(self) -> Sequence[Key]:
        """The keys that may be used now."""


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What a token must be.

    Attributes:
        audience: The `aud` that it must have; empty: it must have none.
        issuer: The `iss` that it must have; empty: any.
        max_bytes: How large it may be.
        claims: The limits of its claims.
    """

    audience: str
    issuer: str
    max_bytes: int
    claims: ClaimLimits


class UnknownKeyError(RefusedError):
    """No key that is at hand fits the token; one that is fetched may.

    Attributes:
        key_id: The `kid` that it names; empty when it names none.
    """

    def __init__(self, algorithm: str, key_id: str) -> None:
        reason = Reason.UNKNOWN_KEY if key_id else Reason.ALGORITHM
        super().__init__(reason, "the token is signed with a key that is not known here")
        self.algorithm = algorithm
        self.key_id = key_id


class TokenVerifier:
    """Checks tokens.

    Args:
        sources: Who knows the keys.
        rules: What a token must be.
        unix_s: The wall clock.
    """

    def __init__(
        self,
        sources: Sequence[KeySource],
        rules: TokenRules,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self._sources = sources
        self.rules = rules
        self.unix_s = unix_s

    def verify(self, token: str) -> dict[str, Any]:
        """Return the claims of a token whose signature, times, audience and issuer are right.

        Raises:
            UnknownKeyError: no key that is at hand fits it.
            RefusedError: it is not valid.
        """
        algorithm, key_id = self._read_header(token)
        keys = [
            key for source in self._sources for key in candidates(source.keys, algorithm, key_id)
        ]
        if not keys:
            raise UnknownKeyError(algorithm, key_id)
        for key in keys[:MAX_CANDIDATES]:
            try:
                return self._decode(token, key)
            except exceptions.InvalidSignatureError:
                continue
            except exceptions.PyJWTError as error:
                raise _refusal(error) from None
            except RecursionError:
                raise RefusedError(Reason.MALFORMED, "the claims are nested too deeply") from None
        raise RefusedError(Reason.SIGNATURE, "the token's signature is wrong")

    def _read_header(self, token: str) -> tuple[str, str]:
        if not token.isascii() or len(token) > self.rules.max_bytes:
            detail = f"a token has at most {self.rules.max_bytes} ASCII characters"
            raise RefusedError(Reason.MALFORMED, detail)
        try:
            header = jwt.get_unverified_header(token)
        except (exceptions.PyJWTError, ValueError, RecursionError):
            raise RefusedError(Reason.MALFORMED, "that is no token (JWT)") from None
        algorithm, key_id = header.get("alg"), header.get("kid", "")
        if "crit" in header or "b64" in header:
            raise RefusedError(Reason.MALFORMED, "the token's header asks for what isn't known")
        if algorithm not in ALGORITHMS:
            detail = f"the token's alg must be one of {', '.join(ALGORITHMS)}"
            raise RefusedError(Reason.ALGORITHM, detail)
        if not isinstance(key_id, str) or len(key_id) > KEY_ID_MAX_CHARS:
            raise RefusedError(Reason.MALFORMED, "the token's kid must be a short text")
        return algorithm, key_id

    def _decode(self, token: str, key: Key) -> dict[str, Any]:
        claims: dict[str, Any] = jwt.decode(
            token,
            key.material,
            algorithms=[key.algorithm],
            audience=self.rules.audience or None,
            issuer=self.rules.issuer or None,
            leeway=self.rules.claims.leeway_s,
            options={"require": ["exp", "sub"], "enforce_minimum_key_length": True},
        )
        return claims


def _refusal(error: exceptions.PyJWTError) -> RefusedError:
    for kind, (reason, detail) in _REFUSALS.items():
        if isinstance(error, kind):
            return RefusedError(reason, detail)
    if isinstance(error, exceptions.MissingRequiredClaimError):
        reason = {"aud": Reason.AUDIENCE, "iss": Reason.ISSUER}.get(error.claim, Reason.CLAIMS)
        return RefusedError(reason, f"the token has no claim {error.claim}")
    if isinstance(error, exceptions.DecodeError) and "claim" not in str(error).lower():
        return RefusedError(Reason.MALFORMED, "that is no token (JWT)")
    return RefusedError(Reason.CLAIMS, "the token's claims are of the wrong kind")
