"""Flame graphs: drawn of a running process, and without a trace of the machine."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.flame import sampled, without_places
from bench.machine import MissingError

GRAPHS = Path(__file__).parents[2] / "docs" / "performance"
BUSY = """
def dig():
    sum(range(1000))

def main():
    while True:
        dig()

main()
"""


@pytest.fixture
def busy() -> Iterator[subprocess.Popen[bytes]]:
    """A process that works."""
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def py_spy() -> str:
    """The program, or a skip: only who draws needs it."""
    program = shutil.which("py-spy", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("left out: py-spy comes with `python3 dev.py bench`")
    return program


@pytest.mark.usefixtures("py_spy")
async def test_a_graph_names_what_the_process_does(
    busy: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    """It is drawn while the block runs."""
    file = tmp_path / "graph.svg"
    try:
        async with sampled(busy.pid, file, "busy"):
            # Sampling is by the clock, so time is what it needs.
            await asyncio.sleep(1)
    except MissingError as error:
        pytest.skip(f"left out: {error}")
    assert "dig" in await asyncio.to_thread(file.read_text)


def test_places_and_programs_are_left_out() -> None:
    """What is drawn stays, with the names of packages."""
    folder = Path(__file__).parents[2]
    svg = (
        '<?xml version="1.0"?><!DOCTYPE svg PUBLIC "a" "http://example.test/svg.dtd">'
        '<svg onload="init(evt)" xmlns="http://www.w3.org/2000/svg" xmlns:fg="http://example.test">'
        "<!-- see http://example.test --><script>//<![CDATA[ run() ]]></script>"
        '<text id="title" x="1">py-spy record --pid 7</text><text id="search">Search</text>'
        f"<g><title>flush ({folder}/channels/hub.py:1) (3 samples, 1%)</title>"
        '<rect fg:x="1" x="2"/></g>'
        "<g><title>run (/opt/python/lib/python3.11/asyncio/runners.py:2) (1 samples)</title></g>"
        "<g><title>app (/srv/x/lib/python3.11/site-packages/starlette/a.py:2)</title></g></svg>"
    )
    drawn = without_places(svg, "F1")
    assert "example.test" not in drawn
    assert "script" not in drawn
    assert "onload" not in drawn
    assert ">F1</text>" in drawn
    assert "flush (channels/hub.py:1) (3 samples, 1%)" in drawn
    assert "run (asyncio/runners.py:2)" in drawn
    assert "app (starlette/a.py:2)" in drawn
    assert '<rect x="2"/>' in drawn


def test_recorded_graphs_name_no_place_but_namespaces() -> None:
    """Whoever adds one makes it with the command."""
    graphs = list(GRAPHS.glob("*.svg"))
    assert graphs
    for graph in graphs:
        addresses = set(re.findall(r"https?://[^\"\s<]*", graph.read_text()))
        assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
