"""The HTTP API, asked what its own description says and what it doesn't: no fault, no surprise."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.nodes import NodeProcess
from tests.processes import Scratch

EXAMPLES = 12
"""Of each operation: there are some thirty."""
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture
def node(scratch: Scratch, sqlite_url: str) -> Iterator[NodeProcess]:
    """A node in a process of its own, with something in it."""
    process = NodeProcess(
        scratch.new_folder("fuzzed"),
        {"database_url": sqlite_url, "long_poll_max_s": 0.05, "min_position_wait_s": 0.05},
    )
    with asyncio.Runner() as runner:
        runner.run(process.start())
        try:
            with httpx.Client(base_url=process.url, trust_env=False) as client:
                client.post("/zones", json={"zone_id": "A", "name": "A"})
                client.post("/users", json={"global_id": 1, "name": "x", "zone_id": "A"})
            yield process
        finally:
            runner.run(process.stop())


def test_every_operation_answers_as_described(node: NodeProcess) -> None:
    """Valid and invalid requests of each: nothing above 499, and nothing undocumented."""
    with httpx.Client(base_url=node.url, trust_env=False) as client:
        schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    schema.config.update(base_url=node.url)
    asked, wrong = set(), []
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        asked.add((operation.method.upper(), operation.path))

        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def ask(case: schemathesis.Case[Any]) -> None:
            case.call_and_validate(checks=CHECKS)

        try:
            ask()
        except FailureGroup as failures:
            wrong.append(f"{operation.label}: {failures}")
    assert not wrong, "\n".join(wrong)
    assert len(asked) > 20
    assert "failed" not in node.log_tail(100_000)
