"""Whatever bytes come: each codec answers with what it reads, or with its documented error."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import jwt
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from starlette.requests import Request

from cache.envelope import EnvelopeCodec, MalformedEnvelopeError, NewerEnvelopeError
from channels.positions import (
    InvalidPositionError,
    Position,
    format_vector,
    parse_minima,
    parse_vector,
)
from realtime.auth.assembly import FixedKeys
from realtime.auth.claims import ClaimLimits, channel_grant_of, principal_of
from realtime.auth.errors import RefusedError
from realtime.auth.keys import secret_key
from realtime.auth.tokens import TokenRules, TokenVerifier
from realtime.sse.request import read_request
from realtime.websocket.centrifuge_codec import (
    METHODS,
    BadRequestError,
    ChannelRequest,
    ChannelTokenRequest,
    HistoryRequest,
    RpcRequest,
    SubscribeRequest,
    TokenRequest,
    decode_params,
)
from realtime.websocket.json_codec import JSON

fuzzed = settings(max_examples=150, derandomize=True, deadline=None)

SECRET = b"a secret of the tests, long enough to be one"
LIMITS = ClaimLimits(max_life_s=3_600, leeway_s=5)
PARAMS = (
    ChannelRequest,
    ChannelTokenRequest,
    HistoryRequest,
    RpcRequest,
    SubscribeRequest,
    TokenRequest,
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["zone:A", "zones", "", "e1:5", 2**53, -1, 2**64, "\x00", "F1-*", "*"])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
fields = st.dictionaries(
    st.sampled_from(
        [
            *("channel", "token", "recover", "epoch", "offset", "flag"),
            *("data", "limit", "since", "min", "reverse", "method"),
        ]
    ),
    values,
    max_size=8,
)
commands = st.dictionaries(st.sampled_from(["id", *sorted(METHODS)]), values | fields, max_size=3)


def read_all(message: bytes) -> None:
    """Read a message, and the parameters of its commands in every way."""
    try:
        found = JSON.decode_commands(message, 100)
    except BadRequestError:
        return
    for command in found:
        assert command.method in METHODS or not command.method
        for kind in PARAMS:
            with contextlib.suppress(msgspec.DecodeError, RecursionError, BadRequestError):
                request = decode_params(command, kind)
                if isinstance(request, SubscribeRequest):
                    assert request.position is None or isinstance(request.position, Position)
                    _ = request.minimum


@fuzzed
@given(st.lists(commands, max_size=4))
def test_commands_of_any_json_are_read_or_refused(found: list[dict[str, Any]]) -> None:
    """Parameters of every kind and size, in every command."""
    read_all("\n".join(json.dumps(command) for command in found).encode())


@fuzzed
@given(st.text(max_size=200) | st.text(alphabet='{}[]":,0123456789.eE-+ \\utrnfals', max_size=200))
def test_commands_of_any_text_are_read_or_refused(text: str) -> None:
    """Also what is hardly JSON."""
    read_all(text.encode())


@fuzzed
@given(
    st.text(max_size=200)
    | st.text(alphabet="AZaz09._-=:,ef1 zone", max_size=200)
    | st.from_regex(r"([A-Z]=[0-9a-f]{1,40}:[0-9]{1,30},?){1,70}", fullmatch=True)
)
def test_positions_of_any_text_are_read_or_refused(text: str) -> None:
    """And what is read as a vector is written as one that reads the same."""
    with contextlib.suppress(InvalidPositionError):
        Position.parse(text)
    with contextlib.suppress(InvalidPositionError):
        parse_minima(text, ["zone:A"])
    try:
        vector = parse_vector(text)
    except InvalidPositionError:
        return
    assert parse_vector(format_vector(vector.items())) == vector


@fuzzed
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["zone", "since", "min", "x"]),
            st.text(max_size=40) | st.sampled_from(["A", "*", "A=e1:5", "e1:5", "zones=e1:1"]),
        ),
        max_size=6,
    ),
    st.binary(max_size=60) | st.just(b"A=e1:7"),
)
def test_any_query_of_a_stream_is_read_or_answered_with_4xx(
    query: list[tuple[str, str]], last_event_id: bytes
) -> None:
    """Zones, `since`, `min` and `Last-Event-ID`."""
    encoded = "&".join(f"{name}={value}" for name, value in query).encode("utf-8", "replace")
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/sse",
        "query_string": encoded,
        "headers": [(b"last-event-id", last_event_id)],
    }
    status = 200
    try:
        assert 0 < len(read_request(Request(scope), 64).wanted) <= 64
    except HTTPException as error:
        status = error.status_code
    assert status in {200, 400, 422}


claims = st.dictionaries(
    st.sampled_from(["sub", "exp", "nbf", "iat", "aud", "iss", "jti", "zones", "scope", "channel"]),
    values | st.sampled_from([int(time.time()) + 60, "ada", "read write", ["F1-*"]]),
    max_size=8,
)


@fuzzed
@given(claims)
def test_any_claims_are_a_principal_or_refused(found: dict[str, Any]) -> None:
    """Whoever signs them: what an issuer gets wrong is no fault of ours."""
    for read in (principal_of, channel_grant_of):
        with contextlib.suppress(RefusedError):
            read(found, LIMITS, time.time())


def verifier() -> TokenVerifier:
    """A verifier of one secret."""
    return TokenVerifier([FixedKeys((secret_key(SECRET),))], TokenRules("", "", 4_096, LIMITS))


@fuzzed
@given(claims, st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64"]), values))
def test_any_signed_token_is_verified_or_refused(
    body: dict[str, Any], header: dict[str, Any]
) -> None:
    """Header and claims of every type, with a signature that is right."""
    parts = [
        jwt.utils.base64url_encode(json.dumps(part).encode())
        for part in ({"alg": "HS256", **header}, body)
    ]
    signed = b".".join(parts)
    key = jwt.get_algorithm_by_name("HS256").prepare_key(SECRET)
    signature = jwt.get_algorithm_by_name("HS256").sign(signed, key)
    token = b".".join([signed, jwt.utils.base64url_encode(signature)]).decode()
    with contextlib.suppress(RefusedError):
        principal_of(verifier().verify(token), LIMITS, time.time())


@fuzzed
@given(
    st.text(max_size=200)
    | st.from_regex(
        r"[A-Za-z0-9_-]{0,80}\.[A-Za-z0-9_-]{0,80}\.[A-Za-z0-9_-]{0,80}", fullmatch=True
    )
)
def test_any_text_is_no_token(text: str) -> None:
    """And is refused as that, without being quoted."""
    with pytest.raises(RefusedError) as refused:
        verifier().verify(text)
    assert len(text) < 8 or not text.strip() or text not in refused.value.detail


envelopes = st.fixed_dictionaries(
    {},
    optional={
        "v": st.integers(0, 3) | values,
        "channel": st.sampled_from(["zone:A", "zone:B", "", 7]),
        "epoch": st.sampled_from(["e1", "", "E1", 1]) | st.text(max_size=5),
        "rev": st.integers() | values,
        "tx": st.text(max_size=80),
        "time": st.integers() | values,
        "parts": st.lists(st.tuples(st.text(max_size=9), st.integers()), max_size=3) | values,
        "events": values,
    },
)


@fuzzed
@given(envelopes.map(lambda found: json.dumps(found).encode()) | st.binary(max_size=200))
def test_any_bytes_on_the_bus_are_an_envelope_or_told_as_none(data: bytes) -> None:
    """Another service may share the Redis."""
    try:
        message = EnvelopeCodec().decode(data, "zone:A")
    except (MalformedEnvelopeError, NewerEnvelopeError):
        return
    assert message.channel == "zone:A"
    assert message.position.rev >= 1
