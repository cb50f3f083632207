"""Origins and CORS: which pages may talk to the service, by one list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from realtime.auth.origins import InvalidOriginError, Origins
from tests.realtime.auth.conftest import StartGuarded
from tests.realtime.auth.minter import Minter

if TYPE_CHECKING:
    from tests.realtime.conftest import LiveNode

APP = "https://app.example"


def scope(origin: str | None, host: str = "zones.example", method: str = "GET") -> dict[str, Any]:
    headers = [(b"host", host.encode())]
    if origin is not None:
        headers.append((b"origin", origin.encode()))
    return {"headers": headers, "method": method}


@pytest.mark.parametrize(
    ("origin", "host", "expected"),
    [
        (None, "zones.example", True),
        ("https://zones.example", "zones.example", True),
        ("http://zones.example", "zones.example", True),
        ("https://zones.example:443", "zones.example", True),
        ("https://ZONES.example", "zones.example", True),
        ("http://zones.example:8000", "zones.example:8000", True),
        ("http://[::1]:8000", "[::1]:8000", True),
        ("http://zones.example:8001", "zones.example:8000", False),
        ("https://app.example", "zones.example", True),
        ("https://app.example.evil.example", "zones.example", False),
        ("https://evil-app.example", "zones.example", False),
        ("http://app.example", "zones.example", False),
        ("null", "zones.example", False),
        ("", "zones.example", False),
        ("https://app.example/", "zones.example", False),
        ("https://user@zones.example", "zones.example", False),
        ("file://", "zones.example", False),
    ],
)
def test_an_origin_is_ours_or_on_the_list(
    origin: str | None,
    host: str,
    expected: bool,  # noqa: FBT001 - of a table.
) -> None:
    """Whole and exact; what is no origin is nobody's."""
    assert Origins([APP]).allows(scope(origin, host)) is expected


def test_several_origins_or_hosts_are_none() -> None:
    """A request that could be read in two ways is read in none."""
    origins = Origins([APP])
    twice = scope(APP)
    twice["headers"].append((b"origin", b"https://evil.example"))
    assert not origins.allows(twice)
    hosts = scope("https://zones.example")
    hosts["headers"].append((b"host", b"other.example"))
    assert not origins.allows(hosts)


def test_the_star_allows_all_pages_but_gives_them_no_cookies() -> None:
    """Anybody's page could use everybody's session otherwise."""
    origins = Origins(["*", APP])
    evil = scope("https://evil.example")
    assert origins.allows(evil)
    assert not origins.allows_cookies(evil)
    assert "Access-Control-Allow-Credentials" not in origins.answer_headers(evil)
    assert origins.allows_cookies(scope(APP))


@pytest.mark.parametrize("text", ["app.example", "https://", "https://a/b", "*.example", "ftp://a"])
def test_what_is_no_origin_is_refused_in_settings(text: str) -> None:
    """A misspelt list doesn't silently allow nobody."""
    with pytest.raises(InvalidOriginError):
        Origins([text])


@pytest.fixture
async def client(start_guarded: StartGuarded, sqlite_url: str) -> Any:
    """A node that allows one origin."""
    async with start_guarded(sqlite_url, allowed_origins=f"{APP}, http://localhost:5173") as found:
        yield found


Found = tuple[httpx.AsyncClient, "LiveNode"]


async def test_a_preflight_says_what_is_allowed(client: Found) -> None:
    """Before any token: browsers send none with it."""
    headers = {"origin": APP, "access-control-request-method": "PATCH"}
    answer = await client[0].options("/zones/A", headers=headers)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == APP
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert "PATCH" in answer.headers["access-control-allow-methods"]
    assert "authorization" in answer.headers["access-control-allow-headers"].lower()
    assert answer.headers["vary"] == "Origin"
    foreign = {**headers, "origin": "https://evil.example"}
    refused = await client[0].options("/zones/A", headers=foreign)
    assert refused.status_code == 403
    assert "access-control-allow-origin" not in refused.headers


async def test_allowed_pages_may_read_answers_and_problems(client: Found, minter: Minter) -> None:
    """Also 401s, and the headers that clients go by."""
    for headers, status in (({}, 401), (minter.header(scope="read"), 200)):
        answer = await client[0].get("/zones", headers={**headers, "origin": APP})
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == APP
        assert "Zonecast-Positions" in answer.headers["access-control-expose-headers"]
        assert answer.headers["vary"] == "Origin"


async def test_foreign_pages_may_read_nothing_and_change_nothing(
    client: Found, minter: Minter
) -> None:
    """Whatever token they hold: it isn't theirs."""
    headers = {**minter.header(zones=["*"], scope="read write"), "origin": "https://evil.example"}
    answer = await client[0].get("/zones", headers=headers)
    assert "access-control-allow-origin" not in answer.headers
    body = {"zone_id": "A", "name": "x"}
    refused = await client[0].post("/zones", headers=headers, json=body)
    assert refused.status_code == 403
    assert refused.json()["type"] == "/problems/forbidden-origin"
    assert (await client[0].get("/zones", headers=minter.header(scope="read"))).json() == {
        "zones": []
    }
