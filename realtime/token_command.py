"""`zonecast token`: a token for development, and in words what it grants."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from realtime.auth.assembly import token_rules
from realtime.auth.claims import principal_of
from realtime.auth.errors import RefusedError
from realtime.auth.keys import UnusableKeyError
from realtime.auth.minting import (
    Signer,
    claims_of,
    explain,
    parse_ttl,
    signer_of_file,
    signer_of_secret,
)
from realtime.settings import Settings, load_settings


class TokenError(Exception):
    """A token that can't be made; the message is one line."""


def token(
    sub: Annotated[str, typer.Option(help="Whose it is.")],
    zones: Annotated[
        str, typer.Option(help="Patterns of zones, parted by spaces: 'F1-* F2-Z1', or '*'.")
    ] = "*",
    scope: Annotated[str, typer.Option(help="Of read, write, admin, parted by spaces.")] = "read",
    ttl: Annotated[str, typer.Option(help="How long it lives: 90s, 15m, 1h, 7d.")] = "1h",
    private_key_file: Annotated[
        Path | None, typer.Option(help="PEM; else ZONECAST_JWT_SECRET signs.")
    ] = None,
    key_id: Annotated[str, typer.Option(help="The kid of the private key.")] = "",
) -> None:
    """Make a token: it goes to standard output, what it grants to standard error.

    Example: export ZONECAST_TOKEN=$(zonecast token --sub ada --zones 'F1-*' --ttl 8h)
    """
    try:
        ttl_s = parse_ttl(ttl)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--ttl") from None
    settings = load_settings()
    now_s = time.time()
    claims = claims_of(
        subject=sub,
        zones=zones.split(),
        scope=scope,
        ttl_s=ttl_s,
        now_s=now_s,
        audience=settings.jwt_audience,
        issuer=settings.jwt_issuer,
    )
    unknown = sorted(set(scope.split()) - {"read", "write", "admin"})
    if unknown:
        raise typer.BadParameter(f"no such scope: {' '.join(unknown)}", param_hint="--scope")
    try:
        # As a node would read them, so that it doesn't refuse what was just made.
        principal = principal_of(claims, token_rules(settings).claims, now_s)
        made = _signer(settings, private_key_file, key_id).sign(claims)
    except (RefusedError, UnusableKeyError) as error:
        raise TokenError(str(error)) from None
    typer.echo(f"for {sub}, {ttl} from now, jti {claims['jti']}:", err=True)
    for line in explain(principal):
        typer.echo(f"  {line}", err=True)
    typer.echo(made)


def _signer(settings: Settings, private_key_file: Path | None, key_id: str) -> Signer:
    if private_key_file is not None:
        return signer_of_file(private_key_file, key_id)
    if settings.jwt_secret is None:
        raise TokenError(
            "nothing to sign with: set ZONECAST_JWT_SECRET as for the service, or give "
            "--private-key-file"
        )
    return signer_of_secret(settings.jwt_secret.get_secret_value())
