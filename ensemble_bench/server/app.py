"""The HTTP interface: submissions in, their status and the leaderboards out. Errors are JSON: {"detail": …}."""

import asyncio
import math
import secrets
import shutil
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from ensemble_bench.errors import BundleError, DataError, RecordError, shortened
from ensemble_bench.server import uploads
from ensemble_bench.server.connections import network_of
from ensemble_bench.server.logs import LOGGER
from ensemble_bench.server.middleware import HeardRefusals, SecurityHeaders
from ensemble_bench.server.pages import page
from ensemble_bench.server.ratelimit import RateLimit
from ensemble_bench.server.settings import ServiceSettings
from ensemble_bench.server.store import QUEUED, QuotaError, Store, Submission, Token
from ensemble_bench.server.turns import Turns
from ensemble_bench.submissions.faults import is_of_machine, no_space

ZIP = "application/zip"
# Seconds that an upload may take, and bundles that are checked at the same time.
UPLOAD_SECONDS = 3600
CHECKS = 2
# Uploads of one owner that are received and checked at the same time.
UPLOADS = 2
# Seconds after which to try again where a disk is full, or something else here is broken.
FULL_SECONDS, FAULT_SECONDS = 600, 60

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_app(settings: ServiceSettings, store: Store, *, lifespan: Lifespan | None = None) -> ASGIApp:
    """The service on `store` as an ASGI application; `lifespan` is what runs beside it."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    rate = RateLimit(settings.requests_per_minute)
    checks, turns = CapacityLimiter(CHECKS), Turns(UPLOADS, most=settings.max_pending)

    def caller(request: Request) -> Token | None:
        """The token that was sent, None without a valid one; 429 for a caller who asks too often."""
        scheme, _, sent = request.headers.get("authorization", "").partition(" ")
        token = store.find_token(sent.strip()) if scheme.lower() == "bearer" else None
        host = request.client.host if request.client else ""
        address = network_of(host) or host
        if early := rate.wait(f"token {token.owner}" if token else f"address {address}"):
            seconds = str(math.ceil(early))
            raise HTTPException(429, f"too many requests: wait {seconds} s", headers={"Retry-After": seconds})
        return token

    def owner(request: Request, token: Annotated[Token | None, Depends(caller)]) -> str:
        """Who is asking; 401 without a valid token, 403 with one that was revoked."""
        if token is None:
            raise HTTPException(401, "no valid token", headers={"WWW-Authenticate": "Bearer"})
        if token.revoked is not None:
            raise HTTPException(403, "this token was revoked")
        if (connection := request.scope.get("state", {}).get("connection")) is not None:
            connection.loop.call_soon_threadsafe(connection.trust)
        return token.owner

    @app.post("/api/submissions", status_code=202)
    async def submit(request: Request, owner: Annotated[str, Depends(owner)]) -> dict[str, Any]:
        _check_headers(request, settings.limits.max_bytes)
        identifier = secrets.token_hex(16)
        path = settings.incoming / f"{identifier}.zip"
        try:
            await to_thread.run_sync(store.check_quota, owner, settings.quota)
            async with turns.of(owner):
                async with asyncio.timeout(UPLOAD_SECONDS):
                    await uploads.receive(request.stream(), path, settings.limits.max_bytes)
                bundle = await to_thread.run_sync(uploads.check, path, settings, limiter=checks)
                identifier = await to_thread.run_sync(
                    lambda: uploads.accept(bundle, identifier, owner=owner, settings=settings, store=store)
                )
        except (uploads.TooLargeError, BundleError, QuotaError, TimeoutError, ClientDisconnect) as error:
            raise _refusal(error, settings) from error
        finally:
            path.unlink(missing_ok=True)
            shutil.rmtree(path.with_suffix(""), ignore_errors=True)
        found = await to_thread.run_sync(store.get, identifier)
        return {"id": identifier, "name": bundle.name, "status": QUEUED if found is None else found.status}

    @app.get("/api/submissions/{identifier}")
    def status(identifier: str, owner: Annotated[str, Depends(owner)]) -> dict[str, Any]:
        submission = store.get(identifier)
        if submission is None:
            raise HTTPException(404, "no such submission")
        if submission.owner != owner:
            raise HTTPException(403, "this is another's submission")
        return _status(submission)

    @app.get("/api/leaderboard.{form}", dependencies=[Depends(caller)])
    def leaderboard(form: str) -> Response:
        if form not in ("csv", "json"):
            raise HTTPException(404, "no such page")
        return page(settings.site, f"leaderboard.{form}")

    @app.api_route("/api/{path:path}", methods=["GET", "HEAD"])
    def nothing(path: str) -> Response:
        raise HTTPException(404, "no such page")

    @app.api_route("/{path:path}", methods=["GET", "HEAD"])
    def site(path: str) -> Response:
        return page(settings.site, path)

    async def broken(request: Request, error: Exception) -> JSONResponse:
        status, detail, headers = _fault(error)
        return JSONResponse({"detail": detail}, status_code=status, headers=headers)

    for kind in (OSError, MemoryError, RecordError, DataError, BundleError, Exception):
        app.add_exception_handler(kind, broken)

    return SecurityHeaders(HeardRefusals(app, settings.limits.max_bytes))


def _check_headers(request: Request, max_bytes: int) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != ZIP:
        raise HTTPException(415, f"expected Content-Type: {ZIP}")
    length = request.headers.get("content-length", "")
    if not (length.isascii() and length.isdigit()):
        raise HTTPException(411, "expected a Content-Length")
    if int(length) > max_bytes:
        raise _too_large(max_bytes)


def _refusal(error: Exception, settings: ServiceSettings) -> HTTPException:
    """The answer to an upload that failed."""
    match error:
        case uploads.TooLargeError():
            return _too_large(settings.limits.max_bytes)
        case BundleError() if not is_of_machine(error):
            return HTTPException(422, str(error))
        case QuotaError():
            return HTTPException(429, str(error), headers={"Retry-After": str(error.seconds)})
        case TimeoutError():
            return HTTPException(408, f"the upload took more than {UPLOAD_SECONDS} s")
        case ClientDisconnect():
            return HTTPException(400, "the upload was cut short")
    raise error


def _fault(error: Exception) -> tuple[int, str, dict[str, str]]:
    """Status, detail and headers for a fault that is ours, of which the operator is told; never a bundle's refusal."""
    LOGGER.error("a request failed: %s: %s", type(error).__name__, shortened(str(error)))
    if no_space(error):
        return 507, "the service has no space left", {"Retry-After": str(FULL_SECONDS)}
    if is_of_machine(error):
        return 503, "the service has a fault of its own, try again later", {"Retry-After": str(FAULT_SECONDS)}
    return 500, "internal error", {}


def _too_large(max_bytes: int) -> HTTPException:
    return HTTPException(413, f"at most {max_bytes} bytes are taken")


def _status(submission: Submission) -> dict[str, Any]:
    """The status of a submission, as its owner gets it."""
    return {
        "id": submission.id,
        "name": submission.name,
        "status": submission.status,
        "reasons": list(submission.reasons),
        "submitted": submission.submitted,
        "changed": submission.changed,
    }
