"""The page of results: what it says comes from files that a command wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.report import PAGE, RESULTS, ReportError, filled, joined, write_rows
from bench.rows import Row

WHERE = {
    "command": "python3 dev.py bench F1",
    "machine": "2 x chip",
    "commit": "abc",
    "date": "now",
}
EMPTY = "before\n<!-- F1 -->\nold\n<!-- /F1 -->\nbetween\n<!-- F2 -->\n<!-- /F2 -->\n"


def document(name: str, value: float) -> dict[str, Any]:
    return {**Row(name, "work", "1/s", [value], more={"p99_ms": 2.5}).document(), **WHERE}


def test_a_block_holds_the_rows_and_where_they_were_measured() -> None:
    """What is around the blocks stays."""
    page = filled(EMPTY, {"F1": [document("F1", 7.0)]})
    assert page.startswith("before\n<!-- F1 -->\n")
    assert "| F1 | work | 7 |" in page
    assert "p99_ms 2.5" in page
    assert "`python3 dev.py bench F1`: 2 x chip; abc; now." in page
    assert "old" not in page
    assert "between\n<!-- F2 -->\n\nNot recorded yet." in page


def test_filling_twice_changes_nothing() -> None:
    """Blocks are found again."""
    rows = {"F1": [document("F1", 7.0)]}
    assert filled(filled(EMPTY, rows), rows) == filled(EMPTY, rows)


def test_of_two_files_the_later_one_holds(tmp_path: Path) -> None:
    """A row that was measured anew takes the place of the old one; the others stay."""
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    write_rows(old, [document("F1", 1.0), document("F2", 2.0)])
    write_rows(new, [document("F1", 3.0)])
    found = joined([old, new])
    assert [row["value"] for row in found["F1"]] == [3.0]
    assert [row["value"] for row in found["F2"]] == [2.0]


@pytest.mark.parametrize("text", ["{", "{}", '[{"id": "F1"}]', "[1]"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    """In one line."""
    file = tmp_path / "rows.json"
    file.write_text(text)
    with pytest.raises(ReportError) as raised:
        joined([file])
    assert "\n" not in str(raised.value)


def test_rows_that_the_page_has_no_place_for_are_refused() -> None:
    """They would be lost silently."""
    with pytest.raises(ReportError, match="F3"):
        filled(EMPTY, {"F3": [document("F3", 1.0)]})


def test_the_page_says_what_the_recorded_results_say() -> None:
    """No figure in a table is typed by hand."""
    rows = joined([RESULTS]) if RESULTS.exists() else {}
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page, rows) == page, "run `python3 dev.py bench --report` with the results"


def test_every_measurement_has_its_place() -> None:
    """All thirteen."""
    page = PAGE.read_text(encoding="utf-8")
    assert all(f"<!-- F{number} -->" in page for number in range(1, 14))


def test_rows_are_a_list(tmp_path: Path) -> None:
    """As the issue that asked for them has it."""
    file = tmp_path / "rows.json"
    write_rows(file, [document("F1", 1.0)])
    assert isinstance(json.loads(file.read_text()), list)
