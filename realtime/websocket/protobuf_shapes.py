"""The messages of the Centrifuge client protocol in Protobuf, as far as they are used here.

Names and numbers are those of the protocol's own schema: what others call `bytes data` is a JSON
document here, the same as in the protocol's JSON.
"""

from __future__ import annotations

from typing import Final

from realtime.websocket.protobuf_fields import (
    BOOL,
    INT_32,
    INT_64,
    JSON_BYTES,
    STRING,
    UINT_32,
    UINT_64,
    MapOf,
    Shape,
)

NOTHING: Final = Shape()

# From clients

_TOKEN_REQUEST: Final = Shape(token=(1, STRING))
_CHANNEL_REQUEST: Final = Shape(channel=(1, STRING))
_SUBSCRIBE_REQUEST: Final = Shape(
    channel=(1, STRING),
    token=(2, STRING),
    recover=(3, BOOL),
    epoch=(6, STRING),
    offset=(7, UINT_64),
    data=(8, JSON_BYTES),
    join_leave=(11, BOOL),
    flag=(14, INT_64),
)
_HISTORY_REQUEST: Final = Shape(
    channel=(1, STRING),
    limit=(7, INT_32),
    since=(8, Shape(offset=(1, UINT_64), epoch=(2, STRING))),
    reverse=(9, BOOL),
)

COMMAND: Final = Shape(
    id=(1, UINT_32),
    connect=(4, _TOKEN_REQUEST),
    subscribe=(5, _SUBSCRIBE_REQUEST),
    unsubscribe=(6, _CHANNEL_REQUEST),
    publish=(7, _CHANNEL_REQUEST),
    presence=(8, _CHANNEL_REQUEST),
    presence_stats=(9, _CHANNEL_REQUEST),
    history=(10, _HISTORY_REQUEST),
    ping=(11, NOTHING),
    send=(12, NOTHING),
    rpc=(13, Shape(data=(1, JSON_BYTES), method=(2, STRING))),
    refresh=(14, _TOKEN_REQUEST),
    sub_refresh=(15, Shape(channel=(1, STRING), token=(2, STRING))),
)

# From nodes

_PUBLICATION: Final = Shape(data=(4, JSON_BYTES), offset=(6, UINT_64), time=(9, INT_64))
_CLIENT: Final = Shape(user=(1, STRING), client=(2, STRING))
_PUSH: Final = Shape(
    channel=(2, STRING),
    pub=(4, _PUBLICATION),
    join=(5, Shape(info=(1, _CLIENT))),
    leave=(6, Shape(info=(1, _CLIENT))),
    unsubscribe=(7, Shape(code=(2, UINT_32), reason=(3, STRING))),
    message=(8, Shape(data=(1, JSON_BYTES))),
)

REPLY: Final = Shape(
    id=(1, UINT_32),
    error=(2, Shape(code=(1, UINT_32), message=(2, STRING), temporary=(3, BOOL))),
    push=(4, _PUSH),
    connect=(
        5,
        Shape(
            client=(1, STRING),
            version=(2, STRING),
            expires=(3, BOOL),
            ttl=(4, UINT_32),
            data=(5, JSON_BYTES),
            ping=(7, UINT_32),
            pong=(8, BOOL),
        ),
    ),
    unsubscribe=(7, NOTHING),
    presence=(9, Shape(presence=(1, MapOf(_CLIENT)))),
    presence_stats=(10, Shape(num_clients=(1, UINT_32), num_users=(2, UINT_32))),
    ping=(12, NOTHING),
    rpc=(13, Shape(data=(1, JSON_BYTES))),
    refresh=(
        14,
        Shape(client=(1, STRING), version=(2, STRING), expires=(3, BOOL), ttl=(4, UINT_32)),
    ),
    sub_refresh=(15, Shape(expires=(1, BOOL), ttl=(2, UINT_32))),
)
"""All but what is written around shared bytes: see `protobuf_codec`."""
