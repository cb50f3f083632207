"""Assets: the files that a node serves to browsers, read once, with their entity tags."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from realtime.api.preconditions import is_known, quote_tag

FOLDER: Final = Path(__file__).parent / "static"
MEDIA_TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        ".css": "text/css; charset=utf-8",
        ".html": "text/html; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".svg": "image/svg+xml",
        ".ts": "text/plain; charset=utf-8",
    }
)
CONTENT_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page loads nothing but this service's files, runs no inline code, and is in no frame."""


@dataclass(frozen=True, slots=True)
class Asset:
    """A file.

    Attributes:
        body: What it holds.
        compressed: The same by gzip.
        media_type: What it is.
        tag: Changes whenever the body does.
    """

    body: bytes
    compressed: bytes
    media_type: str
    tag: str

    @classmethod
    def of_file(cls, path: Path) -> Asset:
        """Read a file.

        Raises:
            KeyError: it is of a kind that is not served.
            OSError: it can't be read.
        """
        body = path.read_bytes()
        compressed = gzip.compress(body, mtime=0)
        tag = hashlib.sha256(body).hexdigest()[:16]
        return cls(body, compressed, MEDIA_TYPES[path.suffix], tag)

    def answer(self, request: Request, headers: Mapping[str, str]) -> Response:
        """Answer with the file, or with 304 to who has it; kept, and asked for again each time."""
        is_compressed = "gzip" in request.headers.get("accept-encoding", "")
        tag = f"{self.tag}-gzip" if is_compressed else self.tag
        all_headers = {
            "Cache-Control": "no-cache",
            "ETag": quote_tag(tag),
            "Vary": "Accept-Encoding",
            "X-Content-Type-Options": "nosniff",
            **headers,
        }
        if is_known(request, tag):
            return Response(status_code=304, headers=all_headers)
        if is_compressed:
            all_headers["Content-Encoding"] = "gzip"
        body = self.compressed if is_compressed else self.body
        return Response(body, media_type=self.media_type, headers=all_headers)


ASSETS: Final[Mapping[str, Asset]] = MappingProxyType(
    {path.name: Asset.of_file(path) for path in sorted(FOLDER.iterdir())}
)
"""All files by name. They are small, and no request waits for a disk."""
