"""The request for an event stream: which zones, from where on, and not before what."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request

from channels.names import DIRECTORY, is_zone_id, zone_channel
from channels.positions import InvalidPositionError, Position, parse_minima, parse_vector
from realtime.api.problems import Kind, ProblemError

EVERYTHING: Final = "*"


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """What a client asked for, and may have.

    Attributes:
        wanted: The zones' channels with the client's positions, `None` for a snapshot; or
            just the directory: then all zones, whichever there are.
        minima: Before which positions of channels nothing is told when the stream begins.
        expires_at_s: When the stream is to end, in the loop's time; `None`: never.
    """

    wanted: dict[str, Position | None]
    minima: dict[str, Position]
    expires_at_s: float | None = None


def read_request(request: Request, max_zones: int) -> StreamRequest:
    """Read a request before it is admitted: whoever may not have the stream is refused here.

    Raises:
        HTTPException: 422 for the zones, 400 for `since` and `min`.
    """
    wanted = _read_wanted(request, max_zones)
    return StreamRequest(wanted, _read_minima(request, wanted))


def _read_wanted(request: Request, max_zones: int) -> dict[str, Position | None]:
    zone_ids = dict.fromkeys(request.query_params.getlist("zone"))
    if EVERYTHING in zone_ids:
        return {DIRECTORY: None}
    if not zone_ids:
        raise _invalid("name zones, as in ?zone=A&zone=B, or all of them: ?zone=*")
    if len(zone_ids) > max_zones:
        raise _invalid(f"at most {max_zones} zones on one stream; ?zone=* takes all")
    for zone_id in zone_ids:
        if not is_zone_id(zone_id):
            raise _invalid(f"not a zone id: {zone_id[:100]!r}")
    since = _read_positions(request)
    return {zone_channel(zone_id): since.get(zone_id) for zone_id in zone_ids}


def _invalid(reason: str) -> ProblemError:
    listed = [{"loc": ["query", "zone"], "msg": reason}]
    return ProblemError(Kind.INVALID, reason, {"errors": listed})


def _read_positions(request: Request) -> dict[str, Position]:
    # A browser that comes back repeats the URL; its header is the newer one, and nobody
    # could correct it there.
    with contextlib.suppress(InvalidPositionError):
        last_event_id = request.headers.get("last-event-id", "")
        if last_event_id:
            return parse_vector(last_event_id)
    since = request.query_params.get("since", "")
    try:
        return parse_vector(since) if since else {}
    except InvalidPositionError as error:
        raise HTTPException(400, f"since: {error}") from error


def _read_minima(request: Request, channels: Collection[str]) -> dict[str, Position]:
    """Read below which positions the client is to be told nothing.

    Raises:
        HTTPException: 400, when that can't be read.
    """
    minima: dict[str, Position] = {}
    for text in request.query_params.getlist("min"):
        try:
            positions = parse_minima(text, channels)
        except InvalidPositionError as error:
            raise HTTPException(400, f"min: {error}") from error
        if "=" not in text and len(channels) > 1:
            raise HTTPException(400, "min: name the zone, as in ?min=A=epoch:rev")
        minima |= positions
    return minima
