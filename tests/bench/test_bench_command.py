"""`dev.py bench`: what it refuses, and what its rows say."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as command
from bench.load.programs import compiled
from bench.machine import Cores, MissingError
from bench.rows import Plan, Row, Target, table

DOCUMENTED = {"id", "what", "value", "unit", "peer", "peer_value", "ratio", "target", "met", "runs"}
CIRCUMSTANCES = {"command", "machine", "commit", "date"}


def row(**given: Any) -> Row:
    named: dict[str, Any] = {"id": "F0", "what": "work", "unit": "1/s", "values": [1.0, 3.0, 2.0]}
    return Row(**{**named, **given})


async def quick(plan: Plan) -> list[Row]:
    """A measurement that takes no time."""
    values = [plan.seconds] * plan.runs
    return [row(values=values, peer="theirs", peer_values=[1.0], target=Target("ratio", 0.8))]


async def lacking(plan: Plan) -> list[Row]:
    """A measurement that can't be made here."""
    raise MissingError(f"install something {plan.runs} times")


@pytest.fixture
def measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put quick measurements in the place of the real ones."""
    monkeypatch.setattr(command, "MEASUREMENTS", {"F0": quick, "F99": lacking})


def test_an_id_that_is_not_measured_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing is run, and nothing made up."""
    assert command.main(["F1", "F77"]) == 2
    answer = capsys.readouterr()
    assert answer.out == ""
    assert answer.err.count("\n") == 1
    assert "F77" in answer.err
    assert "F13" in answer.err


@pytest.mark.usefixtures("measurements")
def test_rows_are_printed_and_written_as_documented(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file holds every field, the table the same figures."""
    file = tmp_path / "rows.json"
    assert command.main(["F0", "--runs", "2", "--seconds", "5", "--json", str(file)]) == 0
    (document,) = json.loads(file.read_text())
    assert document.keys() >= DOCUMENTED | CIRCUMSTANCES
    assert document["command"] == "python3 dev.py bench F0 --runs 2 --seconds 5"
    assert (document["value"], document["ratio"], document["runs"]) == (5.0, 5.0, 2)
    assert document["met"] is True
    assert "| F0 | work | 5 |" in capsys.readouterr().out


@pytest.mark.usefixtures("measurements")
def test_what_is_missing_is_one_line_and_spares_the_other_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code tells that a row is not there."""
    file = tmp_path / "rows.json"
    assert command.main(["F99", "F0", "--json", str(file)]) == 1
    assert "F99: install something 3 times" in capsys.readouterr().err
    assert [document["id"] for document in json.loads(file.read_text())] == ["F0"]


@pytest.mark.parametrize(
    ("target", "met"),
    [
        (Target("ratio", 0.5), True),
        (Target("ratio", 0.6), False),
        (Target("value", 2, at_least=False), True),
        (Target("value", 1.9, at_least=False), False),
    ],
)
def test_a_target_is_a_bound_of_the_median(target: Target, *, met: bool) -> None:
    """Two of 1, 3 and 2; half of theirs."""
    assert row(peer="theirs", peer_values=[4.0], target=target).met is met


def test_without_a_peer_there_is_no_ratio_and_no_verdict() -> None:
    """A peer that isn't here doesn't count as beaten."""
    alone = row(peer="theirs", target=Target("ratio", 0.5))
    assert alone.ratio is None
    assert alone.met is None
    assert table([alone.document()]).splitlines()[-1].endswith("| ratio >= 0.5 | - |")


def test_the_spread_is_of_the_repetitions() -> None:
    """From 1 to 3 around 2."""
    assert row().spread == 1.0


@pytest.mark.parametrize(("load", "mark"), [(0.9, "90%"), (0.91, "91%!")])
def test_a_load_client_that_was_busy_itself_is_marked(load: float, mark: str) -> None:
    """Ours or the peer's: the ratio says nothing then."""
    busy = row(peer="theirs", peer_values=[1.0], loads=[0.2, 0.3], peer_loads=[load])
    assert busy.is_load_bound is mark.endswith("!")
    assert busy.document()["load_bound"] is busy.is_load_bound
    assert f"| {mark} |" in table([busy.document()])


@pytest.mark.parametrize(
    "words",
    [
        ["F0", "--flame", "f.svg"],
        ["F1", "F5", "--flame", "f.svg"],
        ["F0", "--json", "nowhere/f.json"],
        ["F0", "--runs", "0"],
        ["--report", "nowhere.json"],
    ],
)
@pytest.mark.usefixtures("measurements")
def test_what_can_not_be_done_is_refused_in_one_line(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is measured."""
    assert command.main(words) in {1, 2}
    answer = capsys.readouterr()
    assert answer.out == ""
    assert answer.err.count("\n") == 1


def test_a_missing_compiler_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match="install a compiler") as raised:
        compiled("crowd", tmp_path)
    assert "\n" not in str(raised.value)


def test_cores_are_given_back() -> None:
    """The next measurement shares out all of them again."""
    before = os.sched_getaffinity(0)
    cores = Cores.of_machine()
    with cores.left_to_server():
        assert os.sched_getaffinity(0) == cores.others
    assert os.sched_getaffinity(0) == before
    assert cores.others == before - {cores.server} or len(before) == 1
