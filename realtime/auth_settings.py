"""Settings of who may do what: keys, tokens, browsers, revocations."""

from __future__ import annotations

from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from realtime.auth.keys import UnusableKeyError, secret_key
from realtime.auth.origins import InvalidOriginError, Origins
from realtime.loopback import is_loopback
from realtime.setting_bounds import Count, Positive


class AuthSettings(BaseSettings):
    """The part of the configuration of a node that says who may do what."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    jwt_secret: SecretStr | None = None
    """Secret of HS256 tokens, 32 bytes or more. Any key set means: no entry without a token."""
    jwt_public_key_file: str = ""
    """PEM file of public keys or certificates for RS256, ES256 (P-256) or EdDSA (Ed25519)."""
    jwks_url: str = ""
    """Where public keys are published as a JWK set; `https://`, or `http://` on loopback."""
    jwt_audience: str = Field(default="", max_length=255)
    """The `aud` that tokens must have; empty: they must have none."""
    jwt_issuer: str = Field(default="", max_length=255)
    """The `iss` that tokens must have; empty: any."""
    jwt_leeway_s: float = Field(default=5, ge=0, le=300)
    """How far the clocks of issuers and nodes may be apart."""
    token_max_bytes: int = Field(default=8_192, ge=256, le=65_536)
    """Largest token."""
    token_max_life_s: Annotated[float, Field(gt=0, le=315_360_000)] = 2_592_000
    """Longest life of a token, `iat` to `exp`; revocations are kept for so long."""
    token_grace_s: float = Field(default=25, ge=0, le=3_600)
    """How long a WebSocket connection, or a subscription, outlives its token, to be refreshed."""
    token_in_query: bool = False
    """Accept a token in the URL, as `access_token`: URLs end up in logs of proxies."""
    jwks_refresh_s: Positive = 300
    """Pause between fetches of the JWK set."""
    jwks_refetch_min_s: Positive = 10
    """Least time between fetches because of a token with an unknown key."""
    jwks_max_age_s: Annotated[float, Field(gt=0, le=2_592_000)] = 86_400
    """How long keys are good after the last successful fetch, while the URL is down."""
    jwks_timeout_s: Positive = 5
    """Longest wait for the JWK set."""
    jwks_max_bytes: Count = 262_144
    """Largest JWK set."""
    allowed_origins: str = ""
    """Origins whose pages may use the service, parted by commas; `*`: all, without cookies; \
empty: only its own."""
    session_cookie_secure: bool = True
    """Whether the session's cookie is for HTTPS only; browsers also take it on localhost."""
    ticket_life_s: Annotated[float, Field(gt=0, le=600)] = 30
    """How long a ticket of `POST /tickets` is good."""
    tickets_max: Count = 10_000
    """Tickets that may be unused at a time, over all nodes; then 503."""
    revocations_max: Count = 100_000
    """Revocations that may be in force, over all nodes; then 503."""
    revocations_unverified_max_s: Annotated[float, Field(gt=0, le=2_592_000)] = 60
    """How long a node that can't ask the database lets in by the revocations that it knows."""
    metrics_public: bool = False
    """Whether `/metrics` needs no token where other paths do; else scope `admin`."""
    insecure: bool = False
    """Start on an address that others can reach although no key is set."""

    @field_validator("jwt_secret")
    @classmethod
    def _empty_is_none(cls, value: SecretStr | None) -> SecretStr | None:
        return value if value is not None and value.get_secret_value() else None

    @field_validator("allowed_origins")
    @classmethod
    def _origins_are_origins(cls, value: str) -> str:
        try:
            Origins(_words(value))
        except InvalidOriginError as error:
            raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _secret_is_long(self) -> Self:
        if self.jwt_secret is not None:
            try:
                secret_key(self.jwt_secret.get_secret_value().encode())
            except UnusableKeyError as error:
                # Not `NAME: reason`, of which the mask of secrets would take the reason.
                msg = f"ZONECAST_JWT_SECRET {error}"
                raise ValueError(msg) from None
        return self

    @model_validator(mode="after")
    def _keys_come_safely(self) -> Self:
        if not self.jwks_url:
            return self
        url = urlsplit(self.jwks_url)
        if url.scheme not in {"http", "https"} or not url.hostname or url.username:
            msg = "ZONECAST_JWKS_URL must be an https:// URL without a user"
            raise ValueError(msg)
        if url.scheme == "http" and not (is_loopback(url.hostname) or self.insecure):
            msg = (
                "ZONECAST_JWKS_URL must begin with https://: on the way, others could put "
                "their keys in the place of yours"
            )
            raise ValueError(msg)
        return self

    @property
    def auth_on(self) -> bool:
        """Whether a key is set, so that nobody gets in without a token."""
        return bool(self.jwt_secret or self.jwt_public_key_file or self.jwks_url)

    @property
    def session_cookie(self) -> str:
        """The name of the session's cookie; with the prefix, no other host can set it."""
        return "__Host-zonecast" if self.session_cookie_secure else "zonecast"

    @property
    def origins(self) -> Origins:
        """Which pages may talk to the service."""
        return Origins(_words(self.allowed_origins))


def _words(text: str) -> list[str]:
    return [word for word in (part.strip() for part in text.split(",")) if word]
