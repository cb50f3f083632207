"""A Starlette route that returns constant bytes: the least that a cached answer costs.

python constant.py PORT PATH FILE ETAG
"""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


def main() -> None:
    """Serve until killed."""
    port, path, file, etag = sys.argv[1:5]
    body = Path(file).read_bytes()
    headers = {"etag": etag, "cache-control": "no-cache"}

    async def constant(request: Request) -> Response:
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(body, media_type="application/json", headers=headers)

    app = Starlette(routes=[Route(path, constant)])
    uvicorn.run(app, port=int(port), log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
