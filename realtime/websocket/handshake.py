"""The WebSocket handshake (RFC 6455, section 4): what is asked for, and the answer to it. Pure.

Whoever is to be turned away before a connection begins is turned away here, with a status: who
decides sees the request as it came, and raises `RefusedError`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from websockets.utils import accept_key

HEADER_LINE_MAX_BYTES: Final = 8_192
HEADERS_MAX: Final = 128
JSON_SUBPROTOCOL: Final = b"centrifuge-json"
PROTOBUF_SUBPROTOCOL: Final = b"centrifuge-protobuf"
_PROTOBUF_QUERY: Final = frozenset({("cf_protocol", "protobuf"), ("format", "protobuf")})
"""How the query asks for Protobuf, for clients that can't name a subprotocol."""
TOKEN_SUBPROTOCOL: Final = b"bearer."
"""What a subprotocol begins with that is a token: never echoed."""

Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Handshake:
    """A request to become a WebSocket. Kept by nobody once it is answered.

    Attributes:
        method: The HTTP method.
        http_version: As `1.1`.
        path: Unquoted, without the query.
        query: As it came. It may hold a token: never for logs.
        headers: In their order, names in lower case. Likewise.
        peer: The address of the other end, `host:port`; `None`: it has none.
    """

    method: str
    http_version: str
    path: str
    query: bytes
    headers: Headers
    peer: str | None

    @property
    def scope(self) -> dict[str, Any]:
        """The same in the terms of ASGI, for who finds out who it is."""
        return {
            "type": "websocket",
            "path": self.path,
            "query_string": self.query,
            "headers": self.headers,
        }

    @property
    def offered_subprotocols(self) -> list[bytes]:
        """The subprotocols that the client offers."""
        offered = b",".join(self.values(b"sec-websocket-protocol"))
        return [name.strip() for name in offered.split(b",")]

    def values(self, name: bytes) -> list[bytes]:
        """Return what a header says, each time that it is there."""
        return [value for key, value in self.headers if key == name]


class RefusedError(Exception):
    """A handshake that is answered with a status instead of a connection.

    Attributes:
        status: The HTTP status.
        detail: Why, for people.
        headers: More headers of the answer.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = {} if headers is None else headers


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What there is to say to a client that is let in.

    Attributes:
        key: What it sent, to be answered.
        subprotocol: The one of those that it offers that is spoken, if any.
        is_protobuf: Whether it speaks Protobuf, and not JSON.
    """

    key: str
    subprotocol: bytes | None = None
    is_protobuf: bool = False

    def answer(self) -> bytes:
        """Make the response's head. No extension is ever taken up, compression neither."""
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {accept_key(self.key)}",
        ]
        if self.subprotocol is not None:
            lines.append(f"Sec-WebSocket-Protocol: {self.subprotocol.decode()}")
        return "\r\n".join([*lines, "", ""]).encode()


def check_handshake(handshake: Handshake) -> Acceptance:
    """Read a handshake.

    Raises:
        RefusedError: it is none that the standard allows, or too large.
    """
    _check_head(handshake)
    if handshake.method != "GET":
        raise RefusedError(405, "a WebSocket handshake is a GET request", {"Allow": "GET"})
    if handshake.http_version != "1.1":
        raise RefusedError(505, "a WebSocket handshake needs HTTP/1.1")
    if handshake.values(b"transfer-encoding") or set(handshake.values(b"content-length")) - {b"0"}:
        raise RefusedError(400, "a WebSocket handshake has no body")
    if handshake.values(b"sec-websocket-version") != [b"13"]:
        needed = {"Sec-WebSocket-Version": "13"}
        raise RefusedError(426, "this node speaks version 13 of the WebSocket protocol", needed)
    key = _read_key(handshake.values(b"sec-websocket-key"))
    spoken = (JSON_SUBPROTOCOL, PROTOBUF_SUBPROTOCOL)
    for name in handshake.offered_subprotocols:
        if name in spoken:
            return Acceptance(key, name, is_protobuf=name == PROTOBUF_SUBPROTOCOL)
    return Acceptance(key, is_protobuf=_asks_for_protobuf(handshake.query))


def _asks_for_protobuf(query: bytes) -> bool:
    return b"protobuf" in query and not _PROTOBUF_QUERY.isdisjoint(
        parse_qsl(query.decode("latin-1"))
    )


def _check_head(handshake: Handshake) -> None:
    if len(handshake.headers) > HEADERS_MAX:
        raise RefusedError(431, f"a request may have {HEADERS_MAX} headers")
    for name, value in handshake.headers:
        if len(name) + len(value) + len(": ") > HEADER_LINE_MAX_BYTES:
            raise RefusedError(431, f"a header may have {HEADER_LINE_MAX_BYTES} bytes")


def _read_key(keys: Sequence[bytes]) -> str:
    try:
        (key,) = keys
        if len(base64.b64decode(key, validate=True)) == 16:
            return key.decode("ascii")
    except (ValueError, binascii.Error):
        pass
    raise RefusedError(400, "Sec-WebSocket-Key must be 16 bytes in base64, once")


def refusal(refused: RefusedError) -> bytes:
    """Make the whole answer to a handshake that is refused, as a problem (RFC 9457)."""
    phrase = HTTPStatus(refused.status).phrase
    body = msgspec.json.encode(
        {
            "type": "about:blank",
            "title": phrase,
            "status": refused.status,
            "detail": refused.detail,
        }
    )
    headers = {
        "Date": formatdate(usegmt=True),
        "Content-Type": "application/problem+json",
        "Content-Length": str(len(body)),
        "Cache-Control": "no-store",
        "Connection": "close",
        **refused.headers,
    }
    lines = [f"HTTP/1.1 {refused.status} {phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body
