"""The static site, as files over HTTP.

Not by Starlette's StaticFiles: it reads a file's size before it opens it, so that answers have a wrong length while the
site is replaced, and it serves hidden files.
"""

import html
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from fastapi import HTTPException
from starlette.responses import RedirectResponse, Response, StreamingResponse

INDEX = "index.html"
# Names as leaderboards have them: nothing hidden, no way up, no separators of other systems.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
TYPES = {".html": "text/html; charset=utf-8", ".csv": "text/csv; charset=utf-8", ".json": "application/json"}
POLICY = re.compile(r'http-equiv="Content-Security-Policy" content="([^"]*)"')
CHUNK = 2**18
# Seconds to wait for a site, which is absent between two renames whenever a model is published.
ABSENT, PAUSE = 1.0, 0.01


def page(site: Path, path: str, *, again: bool = True) -> Response:
    """The file at `path` below `site`, or the index of a folder whose path ends with a slash.

    Raises HTTPException: 404 for anything else, also when looked for `again`, and 503 while there is no site.
    """
    *folders, name = path.split("/")
    parts = [*folders, name or INDEX]
    if not all(NAME.fullmatch(part) for part in parts):
        raise HTTPException(404, "no such page")
    _wait_for(site)
    target = site.joinpath(*parts)
    try:
        if target.is_dir():
            # Links on its page are relative to it.
            return RedirectResponse(f"./{name}/")
        # Opened before it is answered: the site may be replaced meanwhile.
        file = open(target, "rb")  # noqa: SIM115 (closed by _chunks)
    except OSError:
        if again:
            time.sleep(PAUSE)
            return page(site, path, again=False)
        raise HTTPException(404, "no such page") from None
    kind = TYPES.get(target.suffix, "application/octet-stream")
    if target.suffix == ".html":
        return _html(file, kind)
    size = os.fstat(file.fileno()).st_size
    return StreamingResponse(_chunks(file), media_type=kind, headers={"Content-Length": str(size)})


def _html(file: BinaryIO, kind: str) -> Response:
    """A page, with the policy that it names for itself also as a header."""
    with file:
        text = file.read().decode()
    named = POLICY.search(text)
    policy = html.unescape(named[1]) if named else "default-src 'none'"
    return Response(text, media_type=kind, headers={"Content-Security-Policy": f"{policy}; frame-ancestors 'none'"})


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while chunk := file.read(CHUNK):
            yield chunk


def _wait_for(site: Path) -> None:
    until = time.monotonic() + ABSENT
    while not site.is_dir():
        if time.monotonic() > until:
            raise HTTPException(503, "the site is being built", headers={"Retry-After": "5"})
        time.sleep(PAUSE)
