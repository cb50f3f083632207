"""What operators are given is true: alerts, dashboard and their page speak of what there is."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from realtime.settings import Settings
from tests.conftest import REQUIRES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tests.realtime.conftest import StartNode

FOLDER = Path(__file__).parents[2] / "docs" / "operations"
PAGE = FOLDER.with_suffix(".md")
SELECTOR = re.compile(r"\b((?:zonecast|process)_[a-z_]+)(?:\{([^}]*)\})?")
LABEL = re.compile(r"(\w+)\s*[=!]~?\s*\"")
FROM_PROMETHEUS = {"job", "instance", "le"}
"""Labels that a scrape adds, and the one of buckets."""


def rules() -> list[dict[str, Any]]:
    """Read the alert rules."""
    (group,) = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def dashboard_queries() -> list[str]:
    """Read what the panels ask."""
    dashboard = json.loads((FOLDER / "grafana.json").read_text())
    panels = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    variables = [
        item["query"]["query"]
        for item in dashboard["templating"]["list"]
        if item["type"] == "query"
    ]
    return panels + variables


def unknown(queries: Iterable[str], exposed: Mapping[str, set[str]]) -> list[str]:
    """Tell which metrics, or labels of theirs, no node has."""
    found = []
    for query in queries:
        for name, selector in SELECTOR.findall(query):
            if name not in exposed:
                found.append(name)
                continue
            labels = set(LABEL.findall(selector)) - FROM_PROMETHEUS
            found += [f"{name}{{{label}}}" for label in labels - exposed[name]]
    return found


@pytest.fixture
async def exposed(
    postgres_url: str,
    redis_url: str,
    start_node: StartNode,
    make_settings: Callable[..., Settings],
) -> dict[str, set[str]]:
    """The samples of a running node on PostgreSQL and Redis, with their labels."""
    settings = make_settings(database_url=postgres_url, redis_url=redis_url)
    async with (
        start_node(settings) as live,
        httpx.AsyncClient(base_url=live.url, trust_env=False) as http,
    ):
        # Figures by route and by code appear with the first request and the first end.
        await http.get("/healthz")
        async with http.stream("GET", "/sse?zone=*") as stream:
            assert stream.status_code == 200
        names: dict[str, set[str]] = {}
        while "zonecast_connections_closed_total" not in names:
            text = (await http.get("/metrics")).text
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    names.setdefault(sample.name, set()).update(sample.labels)
    return names


async def test_every_metric_of_alerts_and_dashboard_is_one_that_a_node_has(
    exposed: dict[str, set[str]],
) -> None:
    """With its labels; a made-up one is found."""
    alerts, queries = await asyncio.to_thread(lambda: (rules(), dashboard_queries()))
    expressions = [rule["expr"].replace("up{", "ignored{") for rule in alerts]
    assert len(expressions) > 10
    assert len(queries) > 20
    assert unknown([*expressions, *queries], exposed) == []
    assert unknown(["rate(zonecast_nothing[5m])"], exposed) == ["zonecast_nothing"]
    assert unknown(['zonecast_bus_state{mood="good"}'], exposed) == ["zonecast_bus_state{mood}"]


async def test_every_promise_has_its_figure(exposed: dict[str, set[str]]) -> None:
    """Whatever the dashboard shows or leaves out."""
    assert exposed.keys() >= {
        "zonecast_unverified_seconds",
        "zonecast_stale",
        "zonecast_repairs_total",
        "zonecast_resets_total",
        "zonecast_subscriptions_started_total",
        "zonecast_slow_connections",
        "zonecast_queued_bytes",
        "zonecast_publish_to_write_seconds_bucket",
        "zonecast_commit_to_publish_seconds_bucket",
        "zonecast_loop_lag_seconds_bucket",
        "zonecast_pool_in_use",
        "zonecast_pool_idle",
        "zonecast_pool_limit",
        "zonecast_cache_hits_total",
        "zonecast_cache_misses_total",
        "zonecast_bus_state",
        "zonecast_bus_gaps_total",
        "zonecast_node_info",
    }


def test_each_alert_has_its_part_of_the_page_and_the_other_way_round() -> None:
    """Who is woken finds what it means, and what to do."""
    text = PAGE.read_text()
    parts = re.split(r"^### ", text.partition("## When an alert fires")[2], flags=re.MULTILINE)[1:]
    told = {part.partition("\n")[0]: part for part in parts}
    assert list(told) == [rule["alert"] for rule in rules()]
    for name, part in told.items():
        assert "\nDo: " in part, name


async def test_the_page_names_only_settings_and_metrics_that_exist(
    exposed: dict[str, set[str]],
) -> None:
    """A renamed one is not left behind."""
    text = await asyncio.to_thread(PAGE.read_text)
    known = {f"ZONECAST_{name.upper()}" for name in Settings.model_fields}
    known |= {f"{name}_FILE" for name in known}
    assert set(re.findall(r"ZONECAST_[A-Z_]+[A-Z]", text)) <= known
    assert unknown([text], exposed) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts_test.yml"),
        ("check", "config", "--syntax-only", "prometheus.yml"),
    ],
)
def test_promtool_accepts_and_tests_the_rules(arguments: tuple[str, ...]) -> None:
    """Prometheus itself reads them, and each fires when it should."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip(f"{REQUIRES}promtool: install prometheus")
    done = subprocess.run(
        [promtool, *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_made_to_fire_by_a_test_of_promtool() -> None:
    """None goes untried."""
    cases = yaml.safe_load((FOLDER / "alerts_test.yml").read_text())["tests"]
    fired = {
        test["alertname"]
        for case in cases
        for test in case["alert_rule_test"]
        if test.get("exp_alerts")
    }
    assert fired == {rule["alert"] for rule in rules()}
