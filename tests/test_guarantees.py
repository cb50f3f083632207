"""The page of guarantees names tests; each of them has to exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "guarantees.md"
REFERENCE = re.compile(r"`(tests/[\w/.]+\.py)(?:::(\w+))?`")


def references(text: str) -> set[tuple[str, str]]:
    """Return the files, and the tests in them, that a page names."""
    return {(match[1], match[2] or "") for match in REFERENCE.finditer(text)}


def missing(text: str, root: Path) -> set[str]:
    """Return what a page names and is not there."""
    lacking = set()
    for file, test in references(text):
        path = root / file
        if not path.is_file():
            lacking.add(file)
        elif test and test not in _functions(path):
            lacking.add(f"{file}::{test}")
    return lacking


def _functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


def test_every_guarantee_names_tests_that_exist() -> None:
    """A renamed or deleted test is noticed here."""
    text = PAGE.read_text(encoding="utf-8")
    assert not missing(text, ROOT)
    promises = text.split("## The promises")[1].split("## What survives what")[0]
    for section in promises.split("\n### ")[1:]:
        assert references(section), f"no test holds: {section.splitlines()[0]}"


@pytest.mark.parametrize("name", ["tests/nowhere.py", "tests/test_guarantees.py::test_nothing"])
def test_a_test_that_is_not_there_is_noticed(name: str) -> None:
    """Neither a file nor a function may be made up."""
    assert missing(f"- `{name}`", ROOT) == {name}
