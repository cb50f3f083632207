"""`zonecast top`: nodes, channels and slow clients, live in a terminal or once for a pipe."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from realtime.addresses import NodeUrlsOption, node_urls
from realtime.bearer import TokenFileOption, TokenOption, given_token
from realtime.logs import mask_text
from realtime.top import NodeView, Top

FAILED: Final = 1
CHANNELS_SHOWN: Final = 10
SLOW_SHOWN: Final = 5


def top(
    url: NodeUrlsOption = None,
    interval_s: Annotated[
        float, typer.Option(min=0.2, max=60, help="Seconds between two looks.")
    ] = 1.0,
    once: Annotated[  # noqa: FBT002 - an option of a command line.
        bool, typer.Option("--once", help="Look twice, print, and end.")
    ] = False,
    json: Annotated[  # noqa: FBT002 - an option of a command line.
        bool, typer.Option("--json", help="JSON objects, one a line.")
    ] = False,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Show nodes, their rates, the most watched channels, and clients that don't keep up.

    Nodes that ask for tokens want one with scope admin. In a pipe it prints once. Exit code
    with --once: 0, or 1 when a node can't be asked.

    Example: zonecast top --url http://node1:8001 --url http://node2:8002
    """
    urls = node_urls(url)
    console = Console()
    is_once = once or not (json or console.is_terminal)
    looking = Top(urls, given_token(token, token_file))
    asyncio.run(_run(looking, interval_s, console, is_once=is_once, is_json=json))
    if any(view.error for view in looking.nodes):
        raise typer.Exit(FAILED)


async def _run(
    top: Top, interval_s: float, console: Console, *, is_once: bool, is_json: bool
) -> None:
    async with top:
        await top.look()
        if is_once:
            await asyncio.sleep(interval_s)
            await top.look()
            if is_json:
                _write(top.document())
            else:
                console.print(picture(top))
            return
        with Live(console=console, auto_refresh=False, screen=not is_json) as live:
            while True:
                if is_json:
                    _write(top.document())
                else:
                    live.update(picture(top), refresh=True)
                await asyncio.sleep(interval_s)
                await top.look()


def _write(document: dict[str, Any]) -> None:
    sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
    sys.stdout.flush()


def picture(top: Top) -> RenderableType:
    """Draw everything, 80 columns wide at least."""
    parts: list[RenderableType] = [_nodes(top)]
    parts += [_failure(view) for view in top.nodes if view.error]
    parts += [Text(), _channels(top)]
    if slow := top.slow():
        parts += [Text(), _slow(slow)]
    return Group(*parts)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    for number, column in enumerate(columns):
        table.add_column(
            column,
            justify="right" if number else "left",
            no_wrap=True,
            overflow="ellipsis",
            ratio=None if number else 1,
        )
    return table


def _nodes(top: Top) -> Table:
    table = _table("node", "conns", "subs", "msg/s", "chg/s", "req/s", "slow", "lag ms", "state")
    for view in top.nodes:
        node = view.document()
        if node["error"]:
            table.add_row(Text(view.url), *["-"] * 7, Text("away", "red"))
            continue
        table.add_row(
            Text(view.url.partition("://")[2]),
            str(node["connections"]),
            f"{node['subscriptions']:.0f}",
            *(_rate(node[name]) for name in ("deliveries_per_s", "changes_per_s")),
            _rate(node["requests_per_s"]),
            str(node["slow"]),
            "-" if node["loop_lag_ms"] is None else f"{node['loop_lag_ms']:.1f}",
            _state(node),
        )
    return table


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def _state(node: dict[str, Any]) -> Text:
    if node["stopping"]:
        return Text("stopping", "yellow")
    if node["stale_since_ms"] is not None:
        return Text("stale", "red")
    is_well = node["bus"] in {"process", "live"}
    return Text("live" if is_well else f"bus {node['bus']}", "green" if is_well else "yellow")


def _failure(view: NodeView) -> Text:
    reason = " ".join(mask_text(view.error or "").split())
    return Text(f"{view.url}: {reason}", "red", overflow="ellipsis", no_wrap=True)


def _channels(top: Top) -> Table:
    table = _table("channel", "watchers", "users", "rev")
    for channel in top.channels()[:CHANNELS_SHOWN]:
        users = "-" if channel["users"] is None else str(channel["users"])
        table.add_row(
            Text(channel["channel"]), str(channel["watchers"]), users, str(channel["rev"])
        )
    return table


def _slow(slow: list[dict[str, Any]]) -> Table:
    table = _table("slow client", "by", "peer", "channels", "waiting")
    for connection in slow[:SLOW_SHOWN]:
        table.add_row(
            Text(connection["id"]),
            connection["transport"],
            Text(connection["peer"]),
            str(connection["channels"]),
            f"{connection['queued_bytes'] / 1024:.0f} KiB",
        )
    return table
