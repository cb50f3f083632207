"""The Python client against a served world: state, changes, lost connections, refusals."""

from __future__ import annotations

import asyncio
import gc

import pytest

from channels.positions import Position
from realtime.client import (
    Changed,
    Gone,
    Replaced,
    Status,
    TokenRefusedError,
    Update,
    Watch,
    WatchError,
    WatchOptions,
    ZoneRefusedError,
    watch,
)
from realtime.client.address import websocket_url
from realtime.client.tokens import Tokens, renew_after_s
from tests.clients.tcp_proxy import tcp_proxy
from tests.processes import free_port
from tests.realtime.wire_world import WireWorld, served, until

QUICK = WatchOptions(backoff_max_s=0.2, resubscribe_s=0.05)


def url_of(port: int) -> str:
    """Return the address of a service of this machine."""
    return f"http://127.0.0.1:{port}"


def heads(world: WireWorld, *zones: str) -> dict[str, Position]:
    """Return where the truth is."""
    found = {zone: world.truth.heads[f"zone:{zone}"] for zone in zones}
    return {zone: Position(head.epoch, head.rev) for zone, head in found.items()}


def assert_equal(world: WireWorld, zones: Watch) -> None:
    """The watched zones are the truth's."""
    for zone in zones.values():
        state = world.truth.state(zone.channel)
        assert state is not None
        assert dict(zone.users) == state.users
        assert zone.position == state.position


async def taken(zones: Watch, count: int) -> list[Update]:
    """Take some updates."""
    return [await anext(zones) for _ in range(count)]


async def test_the_block_begins_with_the_state_and_goes_on_by_whole_transactions() -> None:
    """A zone may be added later."""
    async with served() as world:
        world.commit((1, "A"), (2, "B"))
        async with watch(url_of(world.port), ["A", "B"]) as zones:
            assert_equal(world, zones)
            kinds = [type(update) for update in await taken(zones, 4)]
            assert kinds == [Status, Status, Status, Replaced]
            assert zones.status == Status("live")
            assert zones.node == "node-1"
            world.commit((1, "B"), (2, "A"))
            change = await anext(zones)
            assert isinstance(change, Changed)
            assert (change.zone_ids, change.parts[0].rev) == (("A", "B"), 2)
            zones.add("C")
            world.commit((1, "C"))
            assert await zones.wait_for(heads(world, "A", "B", "C"), 10)
            assert_equal(world, zones)
            assert await zones.check("C")
        await world.until_alone()


async def test_a_lost_connection_is_resumed_from_the_positions() -> None:
    """What was missed comes as changes; too far behind, as a state."""
    async with (
        served() as world,
        tcp_proxy(world.port) as proxy,
        watch(url_of(proxy.port), ["A", "B"], options=QUICK) as zones,
    ):
        proxy.is_open = False
        proxy.cut()
        await until(lambda: zones.status.state == "connecting")
        assert zones.status.since_ms is not None
        for _ in range(3):
            world.commit((1, "A"), (2, "B"))
        for _ in range(400):
            world.commit((3, "B"))
        proxy.is_open = True
        assert await zones.wait_for(heads(world, "A", "B"), 10)
        assert_equal(world, zones)
        assert (zones.resumed, zones.renewed) == (1, 1)
        assert zones.connections == 2


async def test_another_history_replaces_the_zone() -> None:
    """The epoch changes, the picture is the new truth."""
    async with served() as world, watch(url_of(world.port), ["A"], options=QUICK) as zones:
        world.commit((1, "A"))
        assert await zones.wait_for(heads(world, "A"), 10)
        world.truth.renew_epochs("e2")
        world.commit((2, "A"))
        assert await zones.wait_for(heads(world, "A"), 10)
        assert_equal(world, zones)
        while True:
            update = await anext(zones)
            if isinstance(update, Replaced) and update.reason == "renewed":
                break


async def test_a_deleted_zone_is_told_and_the_others_go_on() -> None:
    """While connected, and also when it was deleted meanwhile."""
    async with (
        served() as world,
        tcp_proxy(world.port) as proxy,
        watch(url_of(proxy.port), ["A", "B", "C"], options=QUICK) as zones,
    ):
        for change in world.truth.delete_zone("A", "C").changes:
            world.bus.bring(change)
        await until(lambda: zones["A"].is_gone)
        proxy.is_open = False
        proxy.cut()
        world.truth.delete_zone("B", "C")
        proxy.is_open = True
        gone = []
        async for update in zones:
            if isinstance(update, Gone):
                gone.append(update.zone_id)
                if len(gone) == 2:
                    break
        assert gone == ["A", "B"]
        world.commit((1, "C"))
        assert await zones.wait_for(heads(world, "C"), 10)


async def test_an_unknown_zone_ends_the_watch_with_its_name() -> None:
    """It is most likely a slip of the pen. Without waiting, the iteration tells."""
    async with served() as world:
        with pytest.raises(ZoneRefusedError, match="zone nowhere: unknown channel"):
            async with watch(url_of(world.port), ["A", "nowhere"]):
                pytest.fail("the block has begun")
        async with watch(url_of(world.port), ["nowhere"], wait=False) as zones:
            with pytest.raises(ZoneRefusedError):
                await taken(zones, 100)
            with pytest.raises(ZoneRefusedError):
                await zones.wait_for({"nowhere": Position("e1", 1)}, 10)
        await world.until_alone()


async def test_an_unknown_zone_ends_the_watch_before_a_slow_zone_is_there() -> None:
    """What the others wait for is bounded; what is found by then isn't lost."""
    options = WatchOptions(catch_up_wait_s=0.05, max_commands_per_message=1)
    async with served() as world:
        world.truth.due_paces["state"] = [(0, 0), (60, 0)]
        async with asyncio.timeout(20):
            with pytest.raises(ZoneRefusedError, match="zone nowhere: unknown channel"):
                async with watch(url_of(world.port), ["nowhere", "A"], options=options):
                    pytest.fail("the block has begun")


async def test_a_database_that_is_down_is_waited_for() -> None:
    """A temporary refusal is asked again."""
    async with served() as world:
        world.truth.down = True
        async with watch(url_of(world.port), ["A"], wait=False, options=QUICK) as zones:
            await until(lambda: world.truth.asked.count(("state", "zone:A")) >= 2)
            world.truth.down = False
            assert await zones.wait_for(heads(world, "A"), 10)


async def test_nobody_there_is_an_error_unless_one_is_patient() -> None:
    """A patient watch is there when the service is."""
    port = free_port()
    with pytest.raises(WatchError, match=f"cannot watch {url_of(port)}: "):
        await watch(url_of(port), ["A"]).__aenter__()
    async with tcp_proxy(port) as proxy:
        proxy.is_open = False
        async with asyncio.TaskGroup() as tasks:
            patient = watch(url_of(proxy.port), ["A"], patient=True, options=QUICK)
            entering = tasks.create_task(patient.__aenter__())
            async with served() as world:
                world.commit((1, "A"))
                proxy.target_port, proxy.is_open = world.port, True
                zones = await entering
                assert_equal(world, zones)
                await zones.__aexit__(None, None, None)


async def test_a_slow_reader_gets_states_instead_of_changes_and_memory_stays_bounded() -> None:
    """10,000 transactions come while nobody takes any; then the newest state, once."""
    async with served() as world:
        world.commit((1, "A"))
        options = WatchOptions(queue_max_events=50)
        async with watch(url_of(world.port), ["A", "B"], options=options) as zones:
            await taken(zones, 4)
            for number in range(2_000):
                world.commit((1, "BA"[number % 2]))
            assert await zones.wait_for(heads(world, "A", "B"), 30)
            assert zones.times_behind == 1
            summary = await anext(zones)
            assert isinstance(summary, Replaced)
            assert summary.reason == "behind"
            assert [state.position for state in summary.zones] == list(
                heads(world, "A", "B").values()
            )
            gc.collect()
            kept = [kept for kept in gc.get_objects() if isinstance(kept, Changed)]
            assert len(kept) <= 51
            world.commit((1, "B"))
            while not isinstance(update := await anext(zones), Changed):
                pass
            assert update.zone_ids == ("A", "B")


async def test_the_blocks_own_error_and_a_cancellation_leave_it_as_they_are() -> None:
    """And the connection is closed."""
    async with served() as world:
        with pytest.raises(KeyError, match="mine"):
            async with watch(url_of(world.port), ["A"]):
                raise KeyError("mine")
        began = asyncio.Event()

        async def hold() -> None:
            async with watch(url_of(world.port), ["A"]):
                began.set()
                await asyncio.Event().wait()

        async with asyncio.TaskGroup() as tasks:
            holding = tasks.create_task(hold())
            await began.wait()
            holding.cancel()
        assert holding.cancelled()
        await world.until_alone()


async def test_a_cancelled_wait_for_the_beginning_closes_the_connection() -> None:
    """A deadline around the block is enough."""
    async with served() as world:
        world.truth.down = True
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3), watch(url_of(world.port), ["A"]):
                pytest.fail("the block has begun")
        await world.until_alone()


async def test_a_source_of_tokens_that_fails_is_asked_again_and_may_give_up() -> None:
    """`PermissionError` is final; its text and the token are in no error."""
    asked = 0

    async def token() -> str:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise OSError("secret-of-mine")
        return "secret-token"

    async with served() as world:
        async with watch(
            url_of(world.port), ["A"], token=token, patient=True, options=QUICK
        ) as zones:
            assert asked == 3
            assert "secret" not in repr(zones)

        async def refused() -> str:
            raise PermissionError("secret-of-mine")

        with pytest.raises(TokenRefusedError) as error:
            await watch(url_of(world.port), ["A"], token=refused).__aenter__()
        assert "secret" not in str(error.value)
    assert "secret" not in repr(Tokens("secret-token"))


def test_a_token_is_renewed_before_it_ends() -> None:
    """By a tenth of its life, at most 20 s; never in a busy loop."""
    assert renew_after_s(3600) == 3580
    assert renew_after_s(100) == 90
    assert renew_after_s(0.1) == 1


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:8000", "ftp://host", "http://", "http://h:0", "http://[", "http://h:99999"],
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    """The message shows what one looks like."""
    with pytest.raises(WatchError, match="not an address"):
        websocket_url(url)


def test_a_name_no_zone_can_have_is_refused_at_once() -> None:
    """Before anybody is asked."""
    with pytest.raises(ValueError, match="not a zone id"):
        watch("http://127.0.0.1:8000", ["a/b"])


def test_the_websocket_is_below_the_services_address() -> None:
    """With the scheme's secure twin, and below a path where a proxy put one."""
    assert websocket_url("https://z.example/live/") == ("wss://z.example/live/connection/websocket")
