"""What clients were told of the picture's staleness, judged by when the database was away."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tests.faults.history import (
    ClientLog,
    Closed,
    History,
    Item,
    Opened,
    Outage,
    Subscribed,
    Told,
    Unsubscribed,
)
from tests.faults.violations import Promise, Violation

MAKES_TOLD = frozenset({"websocket", "sse", "javascript"})
"""Clients that hand on what they are told: the Python SDK leaves it out."""
STALE, LIVE = "stale", "live"


@dataclass(frozen=True, slots=True)
class ToldBounds:
    """The numbers of the promise.

    Attributes:
        stale_after_s: How long the database may be away before that is told.
        margin_s: For the steps of checking and telling, and for a busy machine.
    """

    stale_after_s: float = 2.0
    margin_s: float = 2.5


@dataclass(slots=True)
class Spell:
    """A time in which a connection had subscriptions, and what it was told in it."""

    client: str
    node: str
    from_s: float
    to_s: float
    told: list[tuple[float, Told]] = field(default_factory=list)

    def last_told(self, by_s: float) -> Told | None:
        """Return what the client knew at a time."""
        known = [told for at_s, told in self.told if at_s <= by_s]
        return known[-1] if known else None


def check_told(history: History, bounds: ToldBounds | None = None) -> list[Violation]:
    """Check that who watched was told `stale` and `live` when it was so, and only then."""
    bounds = bounds or ToldBounds()
    ends_s = _end_of(history)
    away = merged(outage for outage in history.outages if outage.scope == "database")
    found: list[Violation] = []
    for client in history.clients:
        if client.make not in MAKES_TOLD:
            continue
        for spell in spells_of(client, ends_s):
            found += _check_false_alarms(spell, history, bounds)
            for begin_s, end_s in away:
                found += _check_outage(spell, history, bounds, begin_s, end_s)
    return found


def spells_of(client: ClientLog, ends_s: float) -> Iterator[Spell]:
    """Divide a log into the times in which its client had subscriptions."""
    node = ""
    subscribed: set[str] = set()
    spell: Spell | None = None
    for frame in client.frames:
        for item in frame.items:
            if isinstance(item, Opened):
                node = item.node
            told = [(frame.at_s, item)] if isinstance(item, Told) else []
            subscribed = _follow(subscribed, item)
            if spell is not None:
                spell.told += told
            elif subscribed:
                spell = Spell(client.name, node, frame.at_s, ends_s)
            if spell is not None and not subscribed:
                spell.to_s = frame.at_s
                yield spell
                spell = None
    if spell is not None:
        yield spell


def _follow(subscribed: set[str], item: Item) -> set[str]:
    """Return what a client watches after an item."""
    match item:
        case Opened(_, since):
            return set(since)
        case Closed():
            return set()
        case Subscribed(channel):
            return subscribed | {channel}
        case Unsubscribed(channel):
            return subscribed - {channel}
        case Told(_, zone_ids) if zone_ids is not None:
            return subscribed & {f"zone:{zone_id}" for zone_id in zone_ids}
        case _:
            return subscribed


def merged(outages: Iterable[Outage]) -> list[tuple[float, float]]:
    """Return outages as begins and ends, those that overlap as one."""
    found: list[tuple[float, float]] = []
    for outage in sorted(outages, key=lambda outage: outage.from_s):
        if found and outage.from_s <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], outage.to_s))
        else:
            found.append((outage.from_s, outage.to_s))
    return found


def _end_of(history: History) -> float:
    frames = [client.frames[-1].at_s for client in history.clients if client.frames]
    outages = [outage.to_s for outage in history.outages]
    faults = [fault.to_s for fault in history.faults]
    return max([*frames, *outages, *faults, history.began_s])


def _check_outage(
    spell: Spell, history: History, bounds: ToldBounds, begin_s: float, end_s: float
) -> Iterator[Violation]:
    due_s = max(begin_s + bounds.stale_after_s, spell.from_s) + bounds.margin_s
    if min(end_s, spell.to_s) >= due_s and not _is_excused(spell, history, begin_s, due_s):
        told = spell.last_told(due_s)
        if told is None or told.state != STALE:
            text = f"not told that the database is away since {begin_s:.1f}"
            yield Violation(Promise.FRESH, text, due_s, spell.client)
        elif told.since_s is None or told.since_s > begin_s + bounds.margin_s:
            text = f"told stale since {told.since_s}, the database was away since {begin_s:.1f}"
            yield Violation(Promise.FRESH, text, due_s, spell.client)
    due_s = end_s + bounds.stale_after_s + bounds.margin_s
    if spell.to_s < due_s or _is_excused(spell, history, end_s, due_s, "database"):
        return
    told = spell.last_told(due_s)
    if told is not None and told.state != LIVE:
        text = f"not told that the database is back since {end_s:.1f}"
        yield Violation(Promise.FRESH, text, due_s, spell.client)


def _check_false_alarms(spell: Spell, history: History, bounds: ToldBounds) -> Iterator[Violation]:
    for at_s, told in spell.told:
        if told.state != STALE:
            continue
        since_s = at_s if told.since_s is None else told.since_s
        if not _is_excused(spell, history, since_s - bounds.margin_s, at_s, "database"):
            text = f"told stale since {since_s:.1f} though the database answered"
            yield Violation(Promise.FRESH, text, at_s, spell.client)


def _is_excused(spell: Spell, history: History, from_s: float, to_s: float, *scopes: str) -> bool:
    """Tell whether something else was out that this connection rests on."""
    concerned = {"recorder", f"node:{spell.node}", f"client:{spell.client}", *scopes}
    return any(
        outage.scope in concerned and outage.from_s < to_s and outage.to_s > from_s
        for outage in history.outages
    )
