"""The documentation's samples with tokens, run as they stand there, at nodes that ask for them."""

from __future__ import annotations

import ast
import inspect
import socket
from collections.abc import AsyncIterator
from typing import Final

import httpx
import pytest
from playwright.async_api import Page

from realtime.client import watch
from tests.documentation.samples import PACKAGES, SAMPLES, done, started, until_printed
from tests.realtime.auth.minter import Minter, bearer
from tests.realtime.conftest import LiveNode, serving, settings_of_test

pytestmark = pytest.mark.timeout(240)

CENTRIFUGE: Final = PACKAGES / "node_modules" / "centrifuge" / "dist" / "centrifuge.js"
EVERYTHING: Final = {"zones": ["*"], "scope": "read write admin"}
ADA: Final = {"global_id": 1001, "name": "Ada", "zone_id": "F1-Z1"}


@pytest.fixture
def minter() -> Minter:
    """Whose tokens are good."""
    return Minter()


@pytest.fixture
async def guarded(sqlite_url: str, minter: Minter) -> AsyncIterator[LiveNode]:
    """A node that asks for tokens, with two zones, and Ada in the first."""
    settings = settings_of_test(database_url=sqlite_url, **minter.settings())
    async with serving(settings) as live, client_of(live, minter) as api:
        for zone_id in ("F1-Z1", "F1-Z2"):
            made = await api.post("/zones", json={"zone_id": zone_id, "name": zone_id})
            assert made.status_code == 201, made.text
        assert (await api.post("/users", json=ADA)).status_code == 201
        yield live


def client_of(live: LiveNode, minter: Minter) -> httpx.AsyncClient:
    """Make a client that may do everything."""
    header = minter.header(**EVERYTHING, sub="root")
    return httpx.AsyncClient(base_url=live.url, headers=header, trust_env=False, timeout=60)


async def test_a_token_from_the_command_line_opens_a_node_with_its_secret(sqlite_url: str) -> None:
    """The page's own node, on its secret."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"ZONECAST_DATABASE_URL": sqlite_url, "ZONECAST_PORT": str(port)}
    async with started("token", port, **place) as process:
        await until_printed(process, '{"zones":[]')


async def test_revoked_tokens_are_refused(guarded: LiveNode, minter: Minter) -> None:
    """Those that Ada has; not the one that took them back."""
    hers = minter.token(sub="ada", zones=["*"], scope="read")
    printed = await done("revoke", guarded.port, admin=minter.token(**EVERYTHING, sub="root"))
    assert "problem" not in printed
    async with client_of(guarded, minter) as api:
        assert (await api.get("/zones")).status_code == 200
        assert (await api.get("/zones", headers=bearer(hers))).status_code == 401


@pytest.mark.usefixtures("node")
async def test_the_sdk_asks_the_pages_backend_for_its_token(
    guarded: LiveNode, minter: Minter, page: Page
) -> None:
    """And is let in with it."""
    token = minter.token(zones=["*"], scope="read")
    await page.route("**/my-backend/token", lambda route: route.fulfill(body=token))
    await page.goto(f"{guarded.url}/healthz")
    await page.add_script_tag(path=CENTRIFUGE)
    code = SAMPLES["sdk-token"].at(guarded.port)
    await page.evaluate(f"() => {{ {code} globalThis.client = client; client.connect() }}")
    await page.wait_for_function("client.state === 'connected'")


async def test_the_module_asks_the_page_for_its_token(
    guarded: LiveNode, minter: Minter, page: Page
) -> None:
    """And tells a move."""
    token = minter.token(zones=["F1-*"], scope="read")
    await page.goto(f"{guarded.url}/healthz")
    await page.evaluate("token => { globalThis.fetchToken = async () => token }", token)
    code = SAMPLES["module-token"].at(guarded.port)
    async with page.expect_console_message(lambda told: told.text == "Ada undefined → F1-Z1"):
        await page.add_script_tag(content=code, type="module")
    async with (
        page.expect_console_message(lambda told: told.text == "Ada F1-Z1 → F1-Z2"),
        client_of(guarded, minter) as api,
    ):
        await api.post("/users/1/transfer", json={"zone_id": "F1-Z2"})


async def test_the_python_client_asks_a_function_for_its_token(
    guarded: LiveNode, minter: Minter
) -> None:
    """Which is told for whom."""
    asked = []

    class Backend:
        async def token_for(self, subject: str) -> str:
            asked.append(subject)
            return minter.token(sub=subject, zones=["F1-*"], scope="read")

    source = SAMPLES["python-token"].at(guarded.port)
    code = compile(source, "clients.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names: dict[str, object] = {"watch": watch, "my_backend": Backend()}
    running = eval(code, names)  # noqa: S307 - what the page has
    assert inspect.isawaitable(running)
    await running
    assert asked == ["ada"]
