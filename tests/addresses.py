"""Finds what a repository should not name: download addresses, registries, places of a machine.

A lock file or an asset from a foreign host ties every clone to it, and tells where somebody
worked. Versions are pinned by name in `constraints.txt` and `package-lock.json`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

LOCK_FILES = {
    "uv.lock",
    "pylock.toml",
    "poetry.lock",
    "pdm.lock",
    "Pipfile.lock",
    "yarn.lock",
    "pnpm-lock.yaml",
}
"""Formats that cannot but name where a package was downloaded."""

# In parts, so that this file doesn't name them either.
_HOSTS = [
    ".".join(parts)
    for parts in [
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("registry", "npmjs", "org"),
        ("registry", "yarnpkg", "com"),
        ("deb", "debian", "org"),
        ("archive", "ubuntu", "com"),
        ("unpkg", "com"),
        ("jsdelivr", "net"),
        ("cdnjs", "cloudflare", "com"),
        ("esm", "sh"),
        ("proxy", "golang", "org"),
    ]
]

OFFENCES = {
    "a download address": re.compile(
        r"https?://[^\s\"'<>]+\.(?:whl|tgz|tar\.[a-z0-9]+|zip|deb|rpm|jar)\b"
    ),
    "the host of a registry": re.compile(
        r"\b(?:" + "|".join(re.escape(host) for host in _HOSTS) + r")\b", re.IGNORECASE
    ),
    "a resolved address": re.compile(r"\"?resolved\"?\s*[:=]?\s*\"https?://"),
    "a place of somebody's machine": re.compile(
        r"(?<![\w.)/-])/(?:home|Users|root|work|tmp)/[\w.-]"
    ),
}

_NEVER_TRACKED = {".git", ".venv", "node_modules", "__pycache__", "build", "dist"}


def offences(path: str, text: str) -> Iterator[str]:
    """Tell what is wrong with one file, as `path:line: what`."""
    if Path(path).name in LOCK_FILES:
        yield f"{path}:1: a lock file that names addresses"
    for number, line in enumerate(text.splitlines(), start=1):
        for name, pattern in OFFENCES.items():
            if found := pattern.search(line):
                yield f"{path}:{number}: {name}: {found[0]}"


def files_of(root: Path) -> Iterable[Path]:
    """List what is tracked, and what would be with the next `git add`."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607
            cwd=root,
            capture_output=True,
            check=True,
            text=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        # No git, or a source archive: everything that is no product of a tool.
        for folder, folders, names in os.walk(root):
            folders[:] = [name for name in folders if name not in _NEVER_TRACKED]
            yield from (Path(folder) / name for name in names)
        return
    yield from (root / name for name in listed.split("\0") if name)


def offences_in(root: Path) -> list[str]:
    """Tell what is wrong with the files of a repository; files that are no text are left out."""
    found: list[str] = []
    for file in files_of(root):
        try:
            text = file.read_text()
        except (UnicodeDecodeError, OSError):
            continue
        found += offences(str(file.relative_to(root)), text)
    return found


def main() -> int:
    """Print the offences of this repository; returns the exit code."""
    found = offences_in(Path(__file__).resolve().parent.parent)
    for line in found:
        sys.stdout.write(f"{line}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
