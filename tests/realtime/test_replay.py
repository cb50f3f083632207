"""The replay: reading traces, standing users for badges, and never losing or doubling a reading."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from realtime.replay import DelayCounts, Replay, ReplayOptions, ReplayReport
from realtime.replay_display import summary
from realtime.roster import Roster
from realtime.service_api import ServiceApi, ServiceError
from realtime.trace import LINE_MAX_BYTES, MalformedLine, Reading, Trace, read_line
from tests.clients.tcp_proxy import TcpProxy, tcp_proxy
from tests.realtime.conftest import LiveNode, serving
from tests.trace_maker import FULL, SMALL, make_trace

if TYPE_CHECKING:
    from realtime.settings import Settings

SHIPPED = Path(__file__).parents[2] / "docs" / "small_trace.csv"


@pytest.fixture
async def http(live_node: LiveNode) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of the node."""
    async with httpx.AsyncClient(base_url=live_node.url, trust_env=False) as client:
        yield client


@pytest.fixture
def write_trace(tmp_path: Path) -> Callable[[bytes], Path]:
    """Return what writes a file, before the test or outside of its loop."""

    def write(content: bytes) -> Path:
        path = tmp_path / "trace.csv"
        path.write_bytes(content)
        return path

    return write


async def a_trace(write: Callable[[bytes], Path], *lines: str) -> Path:
    """Write a trace with its header."""
    content = "\n".join(("time,badge,zone_id", *lines)) + "\n"
    return await asyncio.to_thread(write, content.encode())


class Told:
    """What a replay tells while it runs."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.parts: list[float] = []

    def warn(self, text: str) -> None:
        """Take a warning."""
        self.warnings.append(text)

    def progressed(self, _report: ReplayReport, part: float) -> None:
        """Take the progress."""
        self.parts.append(part)


async def replay(path: Path, url: str, told: Told | None = None, **options: Any) -> ReplayReport:
    """Replay a trace at full speed unless told otherwise."""
    told = told or Told()
    chosen = ReplayOptions(url, **{"speed": 0.0, **options})
    return await Replay(path, chosen, warn=told.warn, progressed=told.progressed).run()


async def places(client: httpx.AsyncClient) -> dict[str, str | None]:
    """Return the zone of each user, by name."""
    users = (await client.get("/users?limit=1000")).json()["users"]
    return {user["name"]: user["zone_id"] for user in users}


# Reading


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"2016-05-31 00:05:00,ada", "2 columns"),
        (b"2016-05-31 00:05:00,ada,A,more", "4 columns"),
        (b"yesterday,ada,A", "not a time"),
        (b"2016-13-31 00:05:00,ada,A", "not a time"),
        (b"2016-05-31 00:05:00,,A", "not a badge"),
        (b"2016-05-31 00:05:00," + b"x" * 201 + b",A", "not a badge"),
        (b"2016-05-31 00:05:00,a\x07b,A", "not a badge"),
        (b"2016-05-31 00:05:00,ada,A B", "not a zone id"),
        (b"2016-05-31 00:05:00,ada,", "not a zone id"),
        (b'2016-05-31 00:05:00,"ada,A', "not CSV"),
        (b"2016-05-31 00:05:00,\xff,A", "not UTF-8"),
    ],
)
def test_a_malformed_line_is_told_by_number_and_reason(line: bytes, reason: str) -> None:
    """Whatever is wrong, the line is named and the next one is read."""
    malformed = read_line(17, line)
    assert isinstance(malformed, MalformedLine)
    assert str(malformed).startswith("line 17: ")
    assert reason in malformed.reason


def test_a_line_is_read_as_it_was_meant() -> None:
    """Quotes, spaces, Windows line ends and time zones are all fine; a header only on top."""
    reading = read_line(2, b' 2016-05-31 02:05:00+02:00 ,"O\'Neil, Ada", F1-Z1\r\n')
    assert reading == Reading(2, 1_464_653_100.0, "O'Neil, Ada", "F1-Z1")
    assert read_line(1, b"Time, Badge, Zone_id\n") is None
    assert isinstance(read_line(2, b"time,badge,zone_id\n"), MalformedLine)
    assert read_line(3, b"  \r\n") is None


def test_a_file_is_read_to_its_end_whatever_is_in_it(write_trace: Callable[[bytes], Path]) -> None:
    """A byte order mark, an endless line, and a last line without an end."""
    good = b"2016-05-31 00:05:00,ada,A"
    content = b"\xef\xbb\xbftime,badge,zone_id\n" + good + b"\n" + b"x" * 3 * LINE_MAX_BYTES
    trace = Trace(write_trace(content + b"\n" + good))
    items = list(trace)
    assert [item.line for item in items] == [2, 3, 4]
    assert [type(item) for item in items] == [Reading, MalformedLine, Reading]
    assert trace.read_bytes == trace.size_bytes


def test_made_traces_have_the_shape_of_real_ones(write_trace: Callable[[bytes], Path]) -> None:
    """The shipped one is what its maker makes; the large one is like two weeks of a building."""
    assert SHIPPED.read_text().splitlines() == make_trace(SMALL)
    trace = Trace(write_trace("\n".join(make_trace(FULL)).encode()))
    readings = [item for item in trace if isinstance(item, Reading)]
    assert 28_000 < len(readings) < 33_000
    assert len({reading.badge for reading in readings}) == 122
    assert len({reading.zone_id for reading in readings}) == 20
    assert repeated(readings) > 500
    times = [reading.time_s for reading in readings]
    assert times == sorted(times)


def repeated(readings: Iterable[Reading]) -> int:
    """Count readings in the zone where the badge is already."""
    where: dict[str, str] = {}
    count = 0
    for reading in readings:
        count += where.get(reading.badge) == reading.zone_id
        where[reading.badge] = reading.zone_id
    return count


# Replaying


async def test_moves_are_made_in_order_and_counted(
    live_node: LiveNode, http: httpx.AsyncClient, write_trace: Callable[[bytes], Path]
) -> None:
    """Zones and users are made; repeated readings are sent and are no moves."""
    path = await a_trace(
        write_trace,
        "2016-05-31 00:05:00,ada,A",
        "2016-05-31 00:05:10,bob,A",
        "2016-05-31 00:05:20,ada,B",
        "2016-05-31 00:05:20,ada,B",
        "2016-05-31 00:07:00,ada,A",
        "2016-05-31 00:07:00,bob,C",
    )
    told = Told()
    report = await replay(path, live_node.url, told, batch_window_s=60)
    assert (report.readings, report.moves, report.transactions, report.skipped) == (6, 5, 2, 0)
    assert await places(http) == {"ada": "A", "bob": "C"}
    assert (report.equal_zones, report.unequal_zones) == (3, [])
    assert told.parts[-1] == 1.0
    assert report.delays.total >= 1
    assert "6 readings, 5 moves, 2 transactions" in summary(report)
    assert "3 of 3 watched zones equal the database" in summary(report)


async def test_without_a_window_each_reading_is_a_transaction(
    live_node: LiveNode, http: httpx.AsyncClient, write_trace: Callable[[bytes], Path]
) -> None:
    """The zone's revision counts them one by one."""
    lines = [f"2016-05-31 00:05:00,badge{number},A" for number in range(7)]
    report = await replay(await a_trace(write_trace, *lines), live_node.url)
    assert report.transactions == 7
    assert (await http.get("/zones/A/snapshot")).json()["rev"] == 7


async def test_the_speed_is_that_of_the_trace_times_the_factor(
    live_node: LiveNode, write_trace: Callable[[bytes], Path]
) -> None:
    """Ten minutes at a factor of 1,000 take 0.6 seconds, not less."""
    path = await a_trace(write_trace, "2016-05-31 00:00:00,ada,A", "2016-05-31 00:10:00,ada,B")
    report = await replay(path, live_node.url, speed=1_000.0)
    assert 0.6 <= report.seconds < 5


async def test_malformed_lines_are_skipped_and_told(
    live_node: LiveNode, http: httpx.AsyncClient, write_trace: Callable[[bytes], Path]
) -> None:
    """The rest is replayed."""
    path = await a_trace(
        write_trace, "2016-05-31 00:05:00,ada,A", "nonsense", "2016-05-31 00:06:00,ada,B"
    )
    told = Told()
    report = await replay(path, live_node.url, told)
    assert (report.readings, report.skipped) == (2, 1)
    assert told.warnings == ["line 3: 1 columns, not time,badge,zone_id"]
    assert await places(http) == {"ada": "B"}


async def test_strict_stops_before_anything_is_written(
    live_node: LiveNode, http: httpx.AsyncClient, write_trace: Callable[[bytes], Path]
) -> None:
    """The whole file is read first."""
    path = await a_trace(write_trace, "2016-05-31 00:05:00,ada,A", "nonsense")
    told = Told()
    with pytest.raises(ServiceError, match="1 malformed lines; nothing was written"):
        await replay(path, live_node.url, told, strict=True)
    assert told.warnings == ["line 3: 1 columns, not time,badge,zone_id"]
    assert await places(http) == {}
    assert (await http.get("/zones")).json() == {"zones": []}


async def test_a_second_replay_moves_the_same_people(
    live_node: LiveNode, http: httpx.AsyncClient, write_trace: Callable[[bytes], Path]
) -> None:
    """Users are found by their badge, also among others; new badges get numbers above all."""
    other = {"global_id": 500, "name": "ada", "attributes": {"role": "guest"}}
    assert (await http.post("/users", json=other)).status_code == 201
    path = await a_trace(write_trace, "2016-05-31 00:05:00,ada,A", "2016-05-31 00:06:00,bob,A")
    await replay(path, live_node.url)
    path = await a_trace(write_trace, "2016-06-01 00:05:00,cleo,B", "2016-06-01 00:06:00,bob,B")
    report = await replay(path, live_node.url)
    assert report.moves == 2
    users = (await http.get("/users")).json()["users"]
    assert [(user["global_id"], user["name"], user["zone_id"]) for user in users] == [
        (500, "ada", None),
        (501, "ada", "A"),
        (502, "bob", "B"),
        (503, "cleo", "B"),
    ]


async def test_the_same_trace_gives_the_same_numbers(
    live_node: LiveNode, http: httpx.AsyncClient, write_trace: Callable[[bytes], Path]
) -> None:
    """In an empty database badges are numbered from 1 in the order in which they appear."""
    lines = [f"2016-05-31 00:05:0{number},{name},A" for number, name in enumerate("cab")]
    await replay(await a_trace(write_trace, *lines), live_node.url, batch_window_s=60)
    users = (await http.get("/users")).json()["users"]
    assert [(user["global_id"], user["name"]) for user in users] == [(1, "c"), (2, "a"), (3, "b")]
    assert users[0]["attributes"] == {"badge": "c"}


async def test_users_made_by_a_lost_answer_are_found_again(
    live_node: LiveNode, http: httpx.AsyncClient
) -> None:
    """Whether the first try got through or somebody took the number: every badge has one user."""
    async with ServiceApi(live_node.url, 10) as api:
        roster = Roster(api)
        await roster.load()
        thief = {"global_id": 1, "name": "thief"}
        assert (await http.post("/users", json=thief)).status_code == 201
        made_before = {"global_id": 2, "name": "ada", "attributes": {"badge": "ada"}}
        assert (await http.post("/users", json=made_before)).status_code == 201
        await roster.enrol(["ada", "bob", "ada"])
        users = (await http.get("/users")).json()["users"]
        assert [user["name"] for user in users] == ["thief", "ada", "bob"]
        assert roster.user_ids == {user["name"]: user["id"] for user in users[1:]}


async def test_lost_connections_lose_and_double_nothing(
    live_node: LiveNode, http: httpx.AsyncClient, write_trace: Callable[[bytes], Path]
) -> None:
    """Requests are repeated until they are answered; order and end are those of the trace."""
    lines = [
        f"2016-05-31 00:{number // 60:02}:{number % 60:02},badge{number % 7},{'ABC'[number % 3]}"
        for number in range(150)
    ]
    path = await a_trace(write_trace, *lines)
    port = int(live_node.url.rpartition(":")[2])
    async with tcp_proxy(port) as proxy, asyncio.TaskGroup() as tasks:
        url = f"http://127.0.0.1:{proxy.port}"
        replaying = tasks.create_task(replay(path, url, batch_window_s=5))
        tasks.create_task(disturb(proxy, replaying, http))
    report = replaying.result()
    assert report.readings == 150
    assert report.unequal_zones == []
    expected = {line.split(",")[1]: line.split(",")[2] for line in lines}
    assert await places(http) == expected


async def disturb(
    proxy: TcpProxy, replaying: asyncio.Task[ReplayReport], http: httpx.AsyncClient
) -> None:
    """Cut all connections again and again, in whatever they are doing.

    Not before the first was answered: nobody at the address is an error.
    """
    while not (await http.get("/zones")).json()["zones"]:
        await asyncio.wait([replaying], timeout=0.05)
    for _ in range(10):
        await asyncio.wait([replaying], timeout=0.1)
        proxy.cut()


async def test_a_node_that_is_restarted_is_waited_for(
    sqlite_url: str, make_settings: Callable[..., Settings], write_trace: Callable[[bytes], Path]
) -> None:
    """While nobody serves, the replay tries again; it goes on where it was."""
    lines = [
        f"2016-05-31 00:0{number // 60}:{number % 60:02},ada,{'AB'[number % 2]}"
        for number in range(60)
    ]
    path = await a_trace(write_trace, *lines)
    settings = make_settings(database_url=sqlite_url)
    async with tcp_proxy(0) as proxy, asyncio.TaskGroup() as tasks:
        async with serving(settings) as live:
            proxy.target_port = int(live.url.rpartition(":")[2])
            url = f"http://127.0.0.1:{proxy.port}"
            replaying = tasks.create_task(replay(path, url, speed=30.0))
            await asyncio.wait([replaying], timeout=0.5)
        proxy.cut()
        async with serving(settings) as live:
            proxy.target_port = int(live.url.rpartition(":")[2])
            report = await replaying
    assert (report.readings, report.moves, report.unequal_zones) == (60, 60, [])


async def test_an_address_where_nobody_answers_fails_at_once(
    write_trace: Callable[[bytes], Path],
) -> None:
    """One line that names it."""
    path = await a_trace(write_trace, "2016-05-31 00:05:00,ada,A")
    with pytest.raises(ServiceError, match=r"nobody answers at http://127\.0\.0\.1:1"):
        await replay(path, "http://127.0.0.1:1")


def test_delays_are_counted_with_bounded_memory() -> None:
    """Percentiles over whole milliseconds; what can't be is cut off at both ends."""
    delays = DelayCounts()
    assert delays.percentile(50) is None
    for delay_ms in [*range(100), -5, 10_000_000]:
        delays.add(delay_ms)
    assert delays.total == 102
    assert delays.percentile(50) == 49
    assert delays.percentile(100) == 60_000
    assert delays.counts[0] == 2
