"""Pages that others would frame, feed scripts to, or have guessed into something else."""

from __future__ import annotations

import re

import httpx
import pytest

from tests.realtime.conftest import LiveNode

POWERS = re.compile(r"'unsafe-eval'|script-src[^;]*('unsafe-inline'|https?:|\*)|default-src \*")


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_a_page_runs_only_its_own_scripts_and_in_no_frame(
    live_node: LiveNode, path: str
) -> None:
    """By a policy of contents, and for browsers that don't know it by older headers."""
    async with httpx.AsyncClient(base_url=live_node.url, trust_env=False) as client:
        answer = await client.get(path)
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "base-uri 'none'" in policy
    assert not POWERS.search(policy)
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/docs/start.js", "text/javascript"),
        ("/docs/assets/swagger-ui-bundle.js", "text/javascript"),
        ("/docs/assets/swagger-ui.css", "text/css"),
    ],
)
async def test_a_part_of_a_page_is_what_it_says_and_for_no_other_site(
    live_node: LiveNode, path: str, kind: str
) -> None:
    """Its type is not guessed, and pages elsewhere can't embed it."""
    async with httpx.AsyncClient(base_url=live_node.url, trust_env=False) as client:
        answer = await client.get(path)
    assert answer.headers["content-type"].startswith(kind)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
