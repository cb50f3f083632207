"""The AsyncAPI document, held against what a node really sends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import jsonschema

from tests.documentation.channels_document import channels_document
from tests.realtime.event_source import event_source
from tests.realtime.plain_client import plain_client

if TYPE_CHECKING:
    from tests.realtime.conftest import LiveNode


def _validator(schema: str) -> jsonschema.Draft202012Validator:
    document = channels_document()
    return jsonschema.Draft202012Validator({**document, "$ref": f"#/components/schemas/{schema}"})


def _faults(schema: str, message: Any) -> list[str]:
    return [error.message for error in _validator(schema).iter_errors(message)]


async def test_what_a_node_sends_is_what_the_description_says(live_node: LiveNode) -> None:
    """Replies, a state, changes and the status, over both transports."""
    async with (
        httpx.AsyncClient(base_url=live_node.url) as http,
        plain_client(live_node.ws_url) as client,
    ):
        for zone_id in ("A", "B"):
            await http.post("/zones", json={"zone_id": zone_id, "name": zone_id})
        await http.post("/users", json={"global_id": 1, "name": "Ada", "zone_id": "A"})
        subscribed = await client.subscribe("zone:A")
        assert _faults("SnapshotBody", subscribed["subscribe"]["data"]) == []
        async with event_source(live_node.url, "A", "B") as source:
            state = await source.next("snapshot")
            await source.next("snapshot")
            await http.post("/users/1/transfer", json={"zone_id": "B"})
            assert _faults("SnapshotBody", state) == []
            assert _faults("Changes", await source.next("changes")) == []
        await client.until(lambda client: not client.user_ids("zone:A"))
        assert "error" in await client.subscribe("zone:none")
        messages = [line for lines in client.frames for line in lines]
        assert [fault for line in messages for fault in _faults("ServerMessage", line)] == []
        (push,) = (line for line in messages if "push" in line)
        push["push"]["pub"]["data"]["events"][0]["type"] = "vanished"
        assert _faults("ServerMessage", push)
