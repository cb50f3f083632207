"""Addresses of a running service, as options of the command line have them."""

from __future__ import annotations

from typing import Annotated, Final

import httpx
import typer

DEFAULT_URL: Final = "http://127.0.0.1:8000"
UrlOption = Annotated[str, typer.Option(help="The service's address.")]
NodeUrlsOption = Annotated[
    list[str] | None, typer.Option(help=f"A node's address, repeatedly. Else {DEFAULT_URL}.")
]


def check_url(url: str) -> None:
    """Refuse what is no address of a service.

    Raises:
        BadParameter: it isn't `http://host[:port]`, or with `https`.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    is_port = parsed.port is None or 0 < parsed.port < 65_536
    if parsed.scheme not in {"http", "https"} or not parsed.host or not is_port:
        raise typer.BadParameter(f"not an address like {DEFAULT_URL}: {url}", param_hint="--url")


def node_urls(given: list[str] | None) -> list[str]:
    """Return the addresses of the nodes that a command is about, each once.

    Raises:
        BadParameter: one of them is no address.
    """
    urls = list(dict.fromkeys(given or [DEFAULT_URL]))
    for url in urls:
        check_url(url)
    return urls
