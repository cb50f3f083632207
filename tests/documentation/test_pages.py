"""The documentation: pages made from the code are up to date, and it builds without a warning."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from tests.documentation.channels_document import channels_document
from tests.documentation.pages import DOCS, made_pages

ROOT = DOCS.parent
SPECIFICATION = ROOT / "tests/clients/node_modules/@asyncapi/specs/schemas/3.0.0.json"
FOREIGN = re.compile(
    r"""<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=["']?(?:https?:)?//[^"'> ]+"""
)


@pytest.mark.parametrize("path", made_pages(), ids=lambda path: path.name)
def test_a_page_made_from_the_code_is_as_the_code_has_it(path: Path) -> None:
    """`python3 dev.py docs` writes it anew."""
    assert path.read_text() == made_pages()[path]


def test_the_site_builds_without_a_warning_and_fetches_nothing_from_elsewhere(
    tmp_path: Path,
) -> None:
    """Links and their anchors lead somewhere, and pages need no internet."""
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    built = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=150, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    pages = list((tmp_path / ".site").rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        assert not FOREIGN.findall(page.read_text()), page


def test_every_page_is_in_the_navigation() -> None:
    """What nobody finds need not be written."""
    config = (ROOT / "zensical.toml").read_text()
    for page in DOCS.rglob("*.md"):
        assert f'"{page.relative_to(DOCS)}"' in config


def test_the_description_of_channels_is_asyncapi() -> None:
    """As its own schema says."""
    if not SPECIFICATION.exists():
        pytest.skip("requires the npm packages of tests/clients")
    jsonschema.validate(channels_document(), json.loads(SPECIFICATION.read_text()))
