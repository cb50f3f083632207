"""The report: rows from files, written into docs/performance.md, so that no figure is typed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.rows import table

PAGE: Final = Path(__file__).parents[1] / "docs" / "performance.md"
RESULTS: Final = PAGE.with_suffix("") / "results.json"
_FIELDS: Final = frozenset({"id", "what", "value", "command", "machine", "commit", "date"})
_BLOCK: Final = re.compile(
    r"(?P<begin><!-- (?P<id>F\d+) -->\n).*?(?P<end><!-- /(?P=id) -->)", re.DOTALL
)

Document = Mapping[str, Any]


class ReportError(Exception):
    """A file holds no rows, or the page has no place for them; the message is one line."""


def write_rows(file: Path, documents: Sequence[Document]) -> None:
    """Write rows as `--json` documents them."""
    file.write_text(json.dumps(documents, indent=1) + "\n", encoding="utf-8")


def joined(files: Iterable[Path]) -> dict[str, list[Document]]:
    """Read rows, by id; of an id that several files have, the last one's hold.

    Raises:
        ReportError: a file is not there, or holds something else.
    """
    found: dict[str, list[Document]] = {}
    for file in files:
        try:
            documents = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ReportError(f"{file}: {error}") from None
        if not isinstance(documents, list) or not all(map(_is_row, documents)):
            raise ReportError(f"{file}: no rows of `dev.py bench --json`")
        of_file: dict[str, list[Document]] = {}
        for document in documents:
            of_file.setdefault(document["id"], []).append(document)
        found |= of_file
    return found


def _is_row(document: object) -> bool:
    return isinstance(document, dict) and document.keys() >= _FIELDS


def filled(page: str, rows: Mapping[str, Sequence[Document]]) -> str:
    """Return the page with each block between `<!-- F1 -->` and `<!-- /F1 -->` written anew.

    A block of which there are no rows says so. Rows that are no `F` are left out.

    Raises:
        ReportError: the page has no block for some of the rows.
    """
    blocks = {block["id"] for block in _BLOCK.finditer(page)}
    homeless = [name for name in rows if name not in blocks and name.startswith("F")]
    if homeless:
        raise ReportError(f"docs/performance.md has no block for {', '.join(homeless)}")

    def block(found: re.Match[str]) -> str:
        return f"{found['begin']}{_written(rows.get(found['id'], []))}\n{found['end']}"

    return _BLOCK.sub(block, page)


def _written(documents: Sequence[Document]) -> str:
    if not documents:
        return "\nNot recorded yet.\n"
    first = documents[0]
    lines = ["", table(documents), ""]
    more = [_more(row) for row in documents]
    lines += list(dict.fromkeys(line for line in more if line))
    lines += [f"`{first['command']}`: {first['machine']}; {first['commit']}; {first['date']}.", ""]
    return "\n".join(lines)


def _more(row: Document) -> str:
    if not row.get("more"):
        return ""
    figures = ", ".join(f"{name} {value:,.4g}" for name, value in row["more"].items())
    return f"- {row['what']}: {figures}"
