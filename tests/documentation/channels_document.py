"""The channels as an AsyncAPI document, made from the models that the code itself reads with."""

from __future__ import annotations

from importlib import metadata
from typing import Any, Final

import msgspec

from channels import events
from realtime.client.messages import ServerMessage, SnapshotBody, StatusBody
from realtime.websocket.centrifuge_codec import (
    ChannelRequest,
    ChannelTokenRequest,
    HistoryRequest,
    SubscribeRequest,
    TokenRequest,
)

Schema = dict[str, Any]

_VERSION: Final = metadata.version("zonecast")

_SCHEMAS: Final = "#/components/schemas/"
_EVENTS: Final = {"$ref": f"{_SCHEMAS}Events"}
_COMMANDS: Final[dict[str, tuple[Any, str]]] = {
    "connect": (TokenRequest, "The first command; `token` where a key is set."),
    "subscribe": (SubscribeRequest, "Watch a channel; with `recover`, from a position on."),
    "unsubscribe": (ChannelRequest, "Watch it no more."),
    "history": (HistoryRequest, "Ask for retained changes, or only for the position."),
    "presence": (ChannelRequest, "Ask who watches a channel, over all nodes."),
    "presence_stats": (ChannelRequest, "Ask only how many do."),
    "rpc": (None, "`digest`: what a zone's digest is, and at which position."),
    "refresh": (TokenRequest, "A new token for the connection."),
    "sub_refresh": (ChannelTokenRequest, "A new token for one subscription."),
}


def channels_document() -> Schema:
    """Describe what goes over WebSockets and event streams as AsyncAPI 3.0."""
    messages = {
        **{name: _command(name, text) for name, (_, text) in _COMMANDS.items()},
        "server_message": _message("ServerMessage", "A reply, a push, or, when empty, a ping."),
        "snapshot": _message("SnapshotBody", "A zone's state: it replaces what there was."),
        "changes": _message("Changes", "One transaction, with all watched zones it touched."),
        "status": _message("StatusBody", "Whether the picture is verified, or stale since when."),
        "disconnect": _message("Disconnect", "Why the node ends the stream: its token's end."),
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Zonecast",
            "version": _VERSION,
            "description": "Who is in which zone. What the messages mean is in protocol.md.",
        },
        "defaultContentType": "application/json",
        "channels": {
            "websocket": {
                "address": "/connection/websocket",
                "description": "The Centrifuge client protocol; one or more objects in a message, "
                "one a line. Also at /ws. With the subprotocol centrifuge-protobuf the same in "
                "Protobuf: see protocol.md.",
                "messages": _references([*_COMMANDS, "server_message"]),
            },
            "event_stream": {
                "address": "/sse",
                "description": "Server-sent events of the zones named by `zone` in the query; "
                "the event's name is the message's.",
                "messages": _references(["snapshot", "changes", "status", "disconnect"]),
            },
        },
        "operations": {
            "take_commands": _operation("receive", "websocket", _COMMANDS),
            "answer_and_push": _operation("send", "websocket", ["server_message"]),
            "stream": _operation(
                "send", "event_stream", ["snapshot", "changes", "status", "disconnect"]
            ),
        },
        "components": {"messages": messages, "schemas": _schemas()},
    }


def _schemas() -> Schema:
    read = [model for model, _ in _COMMANDS.values() if model is not None]
    models = [ServerMessage, SnapshotBody, StatusBody, *read]
    kinds = list(events.Event.__args__)
    kinds.remove(events.Revoked)  # For nodes only.
    _, schemas = msgspec.json.schema_components(
        [*models, *kinds], ref_template=f"{_SCHEMAS}{{name}}"
    )
    either = [{"$ref": f"{_SCHEMAS}{kind.__name__}"} for kind in kinds]
    schemas["Events"] = {"type": "array", "items": {"anyOf": either}}
    # Decoded only when they are new, so the model has them raw.
    schemas["TransactionBody"]["properties"]["events"] = _EVENTS
    fields: Schema = {
        "zone_id": {"type": "string"},
        "epoch": {"type": "string"},
        "rev": {"type": "integer"},
        "events": _EVENTS,
    }
    zone = {"type": "object", "properties": fields, "required": list(fields)}
    schemas["Changes"] = {
        "type": "object",
        "properties": {"tx": {"type": "string"}, "zones": {"type": "array", "items": zone}},
        "required": ["tx", "zones"],
    }
    reason: Schema = {"code": {"type": "integer"}, "reason": {"type": "string"}}
    schemas["Disconnect"] = {
        "type": "object",
        "properties": reason,
        "required": list(reason),
    }
    _add_presence(schemas)
    # Its model takes whatever a method may want; there is one method.
    schemas["RpcRequest"] = {
        "type": "object",
        "properties": {
            "method": {"const": "digest"},
            "data": {"$ref": f"{_SCHEMAS}{ChannelRequest.__name__}"},
        },
        "required": ["method", "data"],
    }
    for name, (model, text) in _COMMANDS.items():
        about = "RpcRequest" if model is None else model.__name__
        schemas[f"{name}_command"] = {
            "type": "object",
            "description": text,
            "properties": {
                "id": {"type": "integer", "minimum": 1, "maximum": 2**53 - 1},
                name: {"$ref": f"{_SCHEMAS}{about}"},
            },
            "required": ["id", name],
        }
    return schemas


def _add_presence(schemas: Schema) -> None:
    """Add what our own client has no use for, and so no model."""
    texts = {"client": {"type": "string"}, "user": {"type": "string"}}
    schemas["Present"] = {"type": "object", "properties": texts, "required": list(texts)}
    present = {"$ref": f"{_SCHEMAS}Present"}
    schemas["ServerMessage"]["properties"] |= {
        "presence": {
            "type": "object",
            "properties": {"presence": {"type": "object", "additionalProperties": present}},
            "required": ["presence"],
        },
        "presence_stats": {
            "type": "object",
            "properties": {"num_clients": {"type": "integer"}, "num_users": {"type": "integer"}},
            "required": ["num_clients", "num_users"],
        },
    }
    told = {"type": "object", "properties": {"info": present}, "required": ["info"]}
    schemas["Push"]["properties"] |= {"join": told, "leave": told}


def _command(name: str, text: str) -> Schema:
    return _message(f"{name}_command", text)


def _message(schema: str, text: str) -> Schema:
    return {"summary": text, "payload": {"$ref": f"{_SCHEMAS}{schema}"}}


def _references(names: list[str]) -> Schema:
    return {name: {"$ref": f"#/components/messages/{name}"} for name in names}


def _operation(action: str, channel: str, names: Any) -> Schema:
    place = f"#/channels/{channel}"
    return {
        "action": action,
        "channel": {"$ref": place},
        "messages": [{"$ref": f"{place}/messages/{name}"} for name in names],
    }
