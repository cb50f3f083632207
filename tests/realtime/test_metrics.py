"""Metrics render what was counted, and are an observer of the rules of synchronisation."""

from __future__ import annotations

from prometheus_client import generate_latest

from cache.cache_config import CacheStats, NearCopyStats
from channels.changes import Change
from channels.ports import Observer
from channels.positions import Position
from realtime.metrics import Metrics


def rendered(metrics: Metrics) -> dict[str, float]:
    """Read the figures back: `name{labels}` to value, our own only."""
    lines = generate_latest(metrics.registry).decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line.startswith("zonecast_"))
    return {name: float(value) for name, value in pairs if "_created" not in name}


def test_connections_rise_and_fall() -> None:
    """Opened and closed connections are told apart by transport, closes by code."""
    metrics = Metrics()
    metrics.connection_opened("websocket")
    metrics.connection_opened("websocket")
    metrics.connection_opened("sse")
    metrics.connection_closed("websocket", 3008, 4.0)
    found = rendered(metrics)
    assert found['zonecast_connections{transport="websocket"}'] == 1
    assert found['zonecast_connections{transport="sse"}'] == 1
    assert found['zonecast_connections_opened_total{transport="websocket"}'] == 2
    assert found['zonecast_connections_closed_total{code="3008",transport="websocket"}'] == 1
    assert found['zonecast_connection_seconds_sum{transport="websocket"}'] == 4


def test_both_transports_are_there_before_anybody_connects() -> None:
    """A figure of 0 is not a missing one."""
    found = rendered(Metrics())
    for transport in ("websocket", "sse"):
        assert found[f'zonecast_connections{{transport="{transport}"}}'] == 0
        assert found[f'zonecast_connections_opened_total{{transport="{transport}"}}'] == 0


def test_subscriptions_bytes_and_errors_are_counted() -> None:
    """What transports tell is added up."""
    metrics = Metrics()
    metrics.subscriptions_changed(5)
    metrics.subscriptions_changed(-2)
    metrics.bytes_sent("sse", 300)
    metrics.bytes_sent("sse", 11)
    metrics.protocol_error(107)
    found = rendered(metrics)
    assert found["zonecast_subscriptions"] == 3
    assert found['zonecast_sent_bytes_total{transport="sse"}'] == 311
    assert found['zonecast_protocol_errors_total{code="107"}'] == 1


def test_an_observer_is_counted() -> None:
    """Each verb of the port has its figures."""
    metrics = Metrics()
    observer: Observer = metrics
    change = Change.of_json("zone:A", Position("0a1b", 3), "t", 5, b"[]")
    observer.repaired("zone:A", "gap", 3)
    observer.reset("zone:A", "epoch")
    observer.heads_checked(17, 0.004)
    observer.duplicate("zone:A")
    observer.fanned_out([change, change], 40, 0.003, 0.001)
    observer.published(4, 0.002)
    observer.publish_failed(1, "down")
    observer.failed("repair of zone:A", TimeoutError("late"))
    found = rendered(metrics)
    assert found['zonecast_repairs_total{cause="gap"}'] == 1
    assert found['zonecast_repaired_changes_total{cause="gap"}'] == 3
    assert found['zonecast_resets_total{cause="epoch"}'] == 1
    assert found["zonecast_head_checks_total"] == 1
    assert found["zonecast_followed_channels"] == 17
    assert found["zonecast_duplicates_total"] == 1
    assert found["zonecast_fanned_out_changes_total"] == 2
    assert found["zonecast_deliveries_total"] == 40
    assert found['zonecast_publish_to_write_seconds_bucket{le="0.005"}'] == 1
    assert found['zonecast_publish_to_write_seconds_bucket{le="0.0025"}'] == 0
    assert found["zonecast_published_transactions_total"] == 4
    assert found["zonecast_commit_to_publish_seconds_count"] == 1
    assert found["zonecast_publish_failed_transactions_total"] == 1
    assert found['zonecast_failures_total{error="TimeoutError"}'] == 1


def test_no_figure_is_labelled_by_what_clients_make_up() -> None:
    """Channels and methods don't become labels, whose number would never end."""
    metrics = Metrics()
    for number in range(50):
        metrics.repaired(f"zone:{number}", "gap", 1)
        metrics.duplicate(f"zone:{number}")
        metrics.failed(f"repair of zone:{number}", OSError())
        metrics.request_answered("unmatched", f"M{number}", 405, 0.1)
    found = rendered(metrics)
    assert not [name for name in found if "zone:" in name or "M1" in name]
    name = 'zonecast_http_requests_total{method="other",route="unmatched",status="405"}'
    assert found[name] == 50


def test_two_nodes_of_one_process_have_figures_of_their_own() -> None:
    """The registry is the instance's, so that tests and embedders may run several nodes."""
    first, second = Metrics(), Metrics()
    first.connection_opened("sse")
    assert rendered(first)['zonecast_connections{transport="sse"}'] == 1
    assert rendered(second)['zonecast_connections{transport="sse"}'] == 0


def test_the_cache_figures_are_rendered_as_they_were_taken() -> None:
    """What only rises is a counter, what also falls a gauge; before they are taken, nothing."""
    metrics = Metrics()
    assert not [name for name in rendered(metrics) if "cache" in name]
    near = NearCopyStats(hits=2, bytes=70, age_s=1.5, etag="ab", stamp=None)
    stats = CacheStats(
        available=True,
        hits=3,
        misses=1,
        loads=4,
        fills=5,
        stale_fills_refused=6,
        stale_values_refused=7,
        failures=8,
        size=9,
        near=near,
    )
    metrics.take_cache_figures(stats)
    found = rendered(metrics)
    assert {name: value for name, value in found.items() if "cache" in name} == {
        "zonecast_cache_hits_total": 3,
        "zonecast_cache_near_hits_total": 2,
        "zonecast_cache_misses_total": 1,
        "zonecast_cache_loads_total": 4,
        "zonecast_cache_fills_total": 5,
        "zonecast_cache_stale_fills_refused_total": 6,
        "zonecast_cache_stale_values_refused_total": 7,
        "zonecast_cache_failures_total": 8,
        "zonecast_cache_available": 1,
        "zonecast_cache_entries": 9,
        "zonecast_cache_near_bytes": 70,
        "zonecast_cache_near_age_seconds": 1.5,
    }


def test_the_process_is_measured() -> None:
    """Memory and garbage collection come with the figures."""
    text = generate_latest(Metrics().registry).decode()
    assert "process_resident_memory_bytes" in text
    assert "python_gc_collections_total" in text
