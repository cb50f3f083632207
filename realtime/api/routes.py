"""Routes of the HTTP API: bounded in time, and strict about what a body may be."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from email.message import Message
from typing import Any, Final

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute, _extract_endpoint_context
from starlette.requests import ClientDisconnect

from realtime.api.access import access_of
from realtime.api.guard import Guard
from realtime.api.problems import MEDIA_TYPE, Kind, ProblemError
from realtime.node import node_of
from realtime.settings import Settings

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "title": "Problem",
    "required": ["type", "title", "status"],
    "properties": {
        "type": {"type": "string", "description": "`about:blank` or `/problems/<slug>`"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "index": {"type": "integer", "description": "the row of a bulk request, from 0"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["loc", "msg"],
                "properties": {
                    "loc": {"type": "array", "items": {"type": ["string", "integer"]}},
                    "msg": {"type": "string"},
                },
            },
        },
    },
}
PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "A problem",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
}


GIVEN_UP: Final = "it was given up; whether a write was done is not known"


def slow_body(timeout_s: float) -> ProblemError:
    """Return the problem of a body that didn't arrive in time."""
    return ProblemError(Kind.SLOW_REQUEST, f"send the body within {timeout_s:g} s")


class JsonRequest(Request):
    """A request whose body was read and parsed before the route's handler is called."""

    async def parse(self) -> None:
        """Read the body and parse it as RFC 8259 has it: no NaN, no lone surrogates.

        Raises:
            ProblemError: it is of another type or no JSON, or the client left.
        """
        self._check_type()
        try:
            self._json = msgspec.json.decode(await self.body())
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ProblemError(Kind.UNPARSABLE, f"the body is no JSON: {error}") from error
        except RecursionError as error:
            raise ProblemError(Kind.UNPARSABLE, "the body is nested too deeply") from error
        except ClientDisconnect as error:
            raise ProblemError(Kind.UNPARSABLE, "the body ended early") from error

    async def json(self) -> Any:
        """Return what `parse` found."""
        return self.parsed

    @property
    def parsed(self) -> Any:
        """What `parse` found."""
        return self._json

    def _check_type(self) -> None:
        encoding = self.headers.get("content-encoding", "identity").strip().lower()
        if encoding != "identity":
            raise ProblemError(Kind.WRONG_TYPE, "send the body without a content encoding")
        header = Message()
        header["content-type"] = self.headers.get("content-type", "")
        subtype = header.get_content_subtype()
        is_json = subtype == "json" or subtype.endswith("+json")
        if header.get_content_maintype() != "application" or not is_json:
            raise ProblemError(Kind.WRONG_TYPE, "send the body as application/json")


class BoundedRoute(APIRoute):
    """A route whose requests end within `request_timeout_s`, held to what it needs."""

    access = staticmethod(access_of)
    """Where what it needs is found, by its methods and path."""

    @staticmethod
    def bound_s(settings: Settings) -> float:
        """How long handling may take, seconds."""
        return settings.request_timeout_s

    def get_route_handler(self) -> Handler:
        """Wrap FastAPI's handler."""
        # FastAPI does so at the first request: it reads a file, and the event loop would wait.
        _extract_endpoint_context(self.endpoint)
        handler = super().get_route_handler()
        has_body = self.body_field is not None
        access = self.access(frozenset(self.methods or ()), self.path)

        async def handle(request: Request) -> Response:
            settings = node_of(request).settings
            guard = Guard(request, access)
            async with _given_up_after(settings.request_timeout_s):
                await guard.enter()
            if has_body:
                parsed = await _read_body(request, settings.request_timeout_s)
                guard.check_body(parsed.parsed)
                request = parsed
            try:
                async with _given_up_after(self.bound_s(settings)):
                    response = await handler(request)
            except Exception:
                # Why it failed tells of what was read, too.
                guard.leave()
                raise
            guard.leave()
            return response

        return handle


async def _read_body(request: Request, timeout_s: float) -> JsonRequest:
    parsed = JsonRequest(request.scope, request.receive)
    try:
        async with asyncio.timeout(timeout_s):
            await parsed.parse()
    except TimeoutError:
        raise slow_body(timeout_s) from None
    return parsed


@contextlib.asynccontextmanager
async def _given_up_after(timeout_s: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(timeout_s) as bound:
            yield
    except TimeoutError:
        if not bound.expired():
            raise
        raise ProblemError(Kind.TIMEOUT, GIVEN_UP) from None


class WaitingRoute(BoundedRoute):
    """A route that may wait for changes before it answers."""

    @staticmethod
    def bound_s(settings: Settings) -> float:
        """How long handling may take, seconds."""
        return settings.request_timeout_s + settings.long_poll_max_s


def new_router(tag: str, route_class: type[BoundedRoute] = BoundedRoute) -> APIRouter:
    """Make a router whose routes are bounded and document their problems."""
    return APIRouter(route_class=route_class, tags=[tag], responses=PROBLEM_RESPONSES)
