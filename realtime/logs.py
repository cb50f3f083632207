"""Logs: one line an event, JSON or console, our own and the libraries', without secrets."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Mapping
from typing import Any, Final, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

MASK: Final = "***"
_MAX_DEPTH: Final = 6

_SECRET_NAME: Final = re.compile(
    r"(?:^|[_-])(?:authorization|cookie|passw(?:or)?d|secret|token|ticket|apikey|api[_-]key)$", re.I
)
_URL_PASSWORD: Final = re.compile(r"(?<=://)([^\s/@:]*):[^\s/@]+(?=@)")
_PARAMETER: Final = re.compile(
    r"((?:token|ticket|password|passwd|secret|api_?key)\"?'?\s*[=:]\s*\"?'?)([^\s&\"',;}]+)", re.I
)
_AUTHORIZATION: Final = re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}", re.I)
_JWT: Final = re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]*")
_QUERY: Final = re.compile(r"\?[^\s\"']*")
# One of these is in every line of which the patterns above mask anything, but for letters beyond
# ASCII that they take for theirs, which are escaped in a line.
_HINT: Final = re.compile(
    r"://|bearer|basic|token|ticket|passw|secret|api|eyj|authorization|cookie|\\u"
)
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Also what turns the direction of text, or begins a line, beyond ASCII."""
_IS_RENDERED: Final = "zonecast_rendered"
_to_json: Final = json.JSONEncoder()


def mask_text(text: str) -> str:
    """Return `text` with passwords in URLs, tokens and authorization masked."""
    text = _URL_PASSWORD.sub(rf"\1:{MASK}", text)
    text = _AUTHORIZATION.sub(rf"\1 {MASK}", text)
    text = _PARAMETER.sub(rf"\1{MASK}", text)
    return _JWT.sub(MASK, text)


def _mask(value: object, depth: int) -> object:
    if isinstance(value, str):
        return mask_text(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth >= _MAX_DEPTH:
        return MASK
    if isinstance(value, Mapping):
        return _mask_members(value, depth + 1)
    if isinstance(value, list | tuple | set | frozenset):
        return [_mask(member, depth + 1) for member in value]
    # Whatever else there is would be written by its repr, which may hold a URL.
    return mask_text(repr(value))


def _mask_members(members: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    return {
        str(key): MASK if _SECRET_NAME.search(str(key)) else _mask(member, depth)
        for key, member in members.items()
    }


def mask_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask secrets wherever an event has them; the last processor before the renderer."""
    return _mask_members(event, 0)


def drop_queries(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Cut query strings from the server's own lines: they may hold a token."""
    if str(event.get("logger", "")).startswith("uvicorn"):
        event["event"] = _QUERY.sub("", str(event.get("event", "")))
        # The same line again, with escape sequences for a terminal.
        event.pop("color_message", None)
    return event


def escape_controls(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Write control characters of texts as escapes, so that nobody begins a line, or paints one.

    For lines to be read on a terminal; the renderer does so with all other values.
    """
    event["event"] = _CONTROL.sub(_escape, str(event.get("event", "")))
    if "exception" in event:
        lines = str(event["exception"]).split("\n")
        event["exception"] = "\n".join(_CONTROL.sub(_escape, line) for line in lines)
    return event


def _escape(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1]


def mask_as_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """Make a line of an event; its secrets are masked where it may have some.

    Most lines have nothing that could be a secret. To find that out in the finished line costs a
    tenth of looking at each of its values.
    """
    try:
        line = _to_json.encode(event)
    except (TypeError, ValueError):
        pass  # Something that only `_mask` can write down.
    else:
        if _HINT.search(line.lower()) is None:
            return line
    return _to_json.encode(_mask_members(event, 0))


def _hand_over(
    _logger: WrappedLogger, _method: str, line: object
) -> tuple[tuple[object], dict[str, dict[str, bool]]]:
    """Give a finished line to the standard library's logger."""
    return (line,), {"extra": {_IS_RENDERED: True}}


def _logger_of(*names: str) -> logging.Logger:
    # Not structlog's, which looks for the caller of each line.
    return logging.getLogger(names[0] if names else "zonecast")


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """Makes lines of what libraries say; ours are finished when they come."""

    def format(self, record: logging.LogRecord) -> str:
        if getattr(record, _IS_RENDERED, False):
            return str(record.msg)
        return super().format(record)


def configure_logging(level: str, log_format: str, stream: TextIO | None = None) -> None:
    """Send every line of this process through one handler. Called once, by who starts it.

    Args:
        level: debug, info, warning or error.
        log_format: json, console, or auto: console on a terminal.
        stream: Where lines go; default: standard error.
    """
    stream = sys.stderr if stream is None else stream
    console = log_format == "console" or (log_format == "auto" and stream.isatty())
    about: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Before the mask: a traceback quotes values, too.
    traces: list[Processor] = [
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    ends: list[Processor] = (
        [mask_secrets, escape_controls, structlog.dev.ConsoleRenderer(colors=stream.isatty())]
        if console
        else [mask_as_json]
    )
    formatter = _Formatter(
        foreign_pre_chain=[*about, structlog.stdlib.ExtraAdder(), *traces, drop_queries],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ends],
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    _quiet_libraries(level)
    structlog.configure(
        # First whether it is wanted at all: most lines of level debug are not.
        processors=[
            structlog.stdlib.filter_by_level,
            *about,
            *traces,
            *ends,
            _hand_over,
        ],
        logger_factory=_logger_of,
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _quiet_libraries(level: str) -> None:
    for name in ("uvicorn", "uvicorn.access", "uvicorn.error", "sqlalchemy", "alembic"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
    # At INFO these two tell each statement and each step; that is asked for by "debug".
    loudest = logging.INFO if level == "debug" else logging.WARNING
    for name in (
        "alembic",
        "sqlalchemy",
        "httpx",
        "httpcore",
        "websockets",
    ):
        logging.getLogger(name).setLevel(loudest)


class PacedLog:
    """A logger for what can happen thousands of times a second when something is down.

    Each event is written at most once in `interval_s`; the next line counts what was left out.
    """

    def __init__(self, logger: structlog.stdlib.BoundLogger, interval_s: float) -> None:
        self._logger = logger
        self._interval_s = interval_s
        self._last_s: dict[str, float] = {}
        self._suppressed: dict[str, int] = {}

    def info(self, event: str, **fields: Any) -> None:
        """Log at level info."""
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Log at level warning."""
        self._write(logging.WARNING, event, fields)

    def _write(self, level: int, event: str, fields: dict[str, Any]) -> None:
        now_s = time.monotonic()
        last_s = self._last_s.get(event)
        if last_s is not None and now_s - last_s < self._interval_s:
            self._suppressed[event] = self._suppressed.get(event, 0) + 1
            return
        self._last_s[event] = now_s
        suppressed = self._suppressed.pop(event, 0)
        if suppressed:
            fields["suppressed"] = suppressed
        self._logger.log(level, event, **fields)
