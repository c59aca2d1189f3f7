"""Where bundles are sent: a folder of leaderboards, an upload service, or the Hugging Face Hub."""

import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import urlsplit

import httpx

from ensemble_bench.errors import BundleError, InvalidValueError
from ensemble_bench.registry.terms import STATUSES
from ensemble_bench.submissions.format import archive
from ensemble_bench.submissions.format.bundle import Bundle
from ensemble_bench.submissions.format.untrusted import on_one_line, quoted

TOKEN = "ENSEMBLE_BENCH_TOKEN"
SERVICES = ("http://", "https://")
HUB = "hf://"
PENDING = ("queued", "verifying")
LOCAL = ("localhost", "127.0.0.1", "::1")
# An upload is answered when it has arrived; verifying it comes later.
TIMEOUT = 600.0
MAX_ANSWER = 2**20
# A service says so where it is busy, starts again or has a fault; and may be asked again for so many seconds.
LATER = (429, 502, 503, 504, 507)
PATIENCE = 3600.0
LONGEST_PAUSE = 60.0


class LaterError(BundleError):
    """A service that gives no answer now, and may give one later."""


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """A service's answer on a submission: its id there, its status, and the reasons for it."""

    id: str
    status: str
    reasons: tuple[str, ...] = ()


def is_service(target: str) -> bool:
    """Whether a target is the address of an upload service; raises InvalidValueError for an address of no target."""
    scheme, separator, _ = target.partition("://")
    if separator and f"{scheme}://" not in (*SERVICES, HUB):
        raise InvalidValueError(f"target is {target!r}: expected a folder, {', '.join(SERVICES)} or {HUB}owner/name")
    return target.startswith(SERVICES)


def upload(bundle: Bundle, url: str, *, token: str | None = None) -> Receipt:
    """Send a bundle to the service at `url`; returns its answer.

    `token` defaults to the environment's ENSEMBLE_BENCH_TOKEN. Raises BundleError, with the service's reason, for a
    bundle or token that is refused and a service that does not answer; InvalidValueError without a token, or where http
    would show it to the network.
    """
    address, token = f"{_base(url)}/api/submissions", _token(token)
    with tempfile.TemporaryFile() as file:
        archive.pack(bundle.folder, file)
        file.seek(0)
        return _receipt(_request(address, token, file))


def status(url: str, identifier: str, *, token: str | None = None) -> Receipt:
    """The service's present answer on a submission; raises as upload."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", identifier):
        raise BundleError(f"{url}: {quoted(identifier)} is no id of a submission")
    return _receipt(_request(f"{_base(url)}/api/submissions/{identifier}", _token(token)))


def wait(
    url: str,
    receipt: Receipt,
    *,
    token: str | None = None,
    pause: float = 5.0,
    report: Callable[[Receipt], None] = lambda _: None,
) -> Receipt:
    """Ask every `pause` seconds until the service has decided; `report` gets each change.

    One that gives no answer is asked again, at growing intervals, for PATIENCE seconds. Raises as upload.
    """
    heard, between = time.monotonic(), pause
    while receipt.status in PENDING:
        time.sleep(between)
        try:
            now = status(url, receipt.id, token=token)
        except LaterError:
            if time.monotonic() - heard >= PATIENCE:
                raise
            between = min(2 * between, LONGEST_PAUSE)
            continue
        heard, between = time.monotonic(), pause
        if now != receipt:
            report(now)
        receipt = now
    return receipt


def push(bundle: Bundle, target: str) -> str:
    """Upload a bundle's files as the model repository hf://owner/name; returns its address.

    It is made where it does not exist, with the token that huggingface_hub reads from its usual places. Nothing is
    verified. Raises BundleError for an upload that fails, InvalidValueError for another target.
    """
    repository = target.removeprefix(HUB)
    if not re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", repository, re.ASCII):
        raise InvalidValueError(f"target is {target!r}: expected {HUB}OWNER/NAME")
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise BundleError(f"{target}: needs huggingface_hub: pip install huggingface_hub") from error
    try:
        api = HfApi()
        api.create_repo(repository, repo_type="model", exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=bundle.folder,
            repo_type="model",
            commit_message="Upload with ensemble-bench",
        )
    except Exception as error:  # of the library, of the one that it asks with, or of the network
        raise BundleError(f"{target}: {quoted(str(error), 300)}") from error
    return f"https://huggingface.co/{repository}"


def _base(url: str) -> str:
    try:
        parts = urlsplit(url)
        wrong = parts.query or parts.fragment or not parts.hostname or parts.port == 0
    except ValueError:  # brackets without an address, or a port that is none
        wrong = True
    # A name or password before the host would go in the token's place.
    if wrong or "@" in parts.netloc:
        raise InvalidValueError(f"target is {url!r}: expected http(s)://HOST with no password and nothing behind it")
    if parts.scheme == "http" and parts.hostname not in LOCAL:
        raise InvalidValueError(f"target is {url!r}: http would show the token to the network, use https")
    return url.rstrip("/")


def _token(token: str | None) -> str:
    token = token or os.environ.get(TOKEN, "")
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise InvalidValueError(f"no token: pass --token or set {TOKEN}; the service's operator gives one")
    return token


def _request(url: str, token: str, file: IO[bytes] | None = None) -> Mapping[str, Any]:
    """POST a file, or GET without; the JSON of the answer. Raises BundleError for any other answer and for none."""
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json", "Accept-Encoding": "identity"}
    if file is not None:
        headers["Content-Type"] = "application/zip"
    method = "GET" if file is None else "POST"
    try:
        # A redirect would take the token elsewhere.
        with httpx.stream(
            method, url, headers=headers, content=file, timeout=TIMEOUT, follow_redirects=False
        ) as response:
            body = _start(response)
    except (httpx.ProtocolError, httpx.InvalidURL) as error:
        raise BundleError(f"{url}: not an upload service of ensemble-bench: {quoted(str(error), 200)}") from None
    except (httpx.TransportError, ImportError, ValueError) as error:  # the last two for a proxy of the environment
        raise LaterError(f"{url}: no answer: {quoted(str(error) or type(error).__name__, 200)}") from None
    if not response.is_success:
        kind = LaterError if response.status_code in LATER else BundleError
        raise kind(f"{url}: {response.status_code} {on_one_line(response.reason_phrase)}: {_detail(body)}")
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{url}: not an upload service of ensemble-bench: {quoted(str(error), 200)}") from None
    if not isinstance(answer, dict):
        raise BundleError(f"{url}: not an upload service of ensemble-bench: its answer is no object")
    return answer


def _start(response: httpx.Response) -> bytes:
    """The first MAX_ANSWER bytes of an answer, as they were sent: what is compressed may unpack without bound."""
    body = b""
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > MAX_ANSWER:
            break
    return body[:MAX_ANSWER]


def _detail(body: bytes) -> str:
    """The reason for a refusal that a service gives."""
    try:
        answer = json.loads(body)
        return quoted(str(answer.get("detail") or answer.get("reasons") or answer), 500)
    except (ValueError, AttributeError, RecursionError):
        return "it does not say why"


def _receipt(values: Mapping[str, Any]) -> Receipt:
    reasons = values.get("reasons") or ()
    if not isinstance(values.get("id"), str | int) or not isinstance(reasons, list | tuple):
        raise BundleError("the service's answer has no id: not an upload service of ensemble-bench")
    if (status := values.get("status")) not in (*PENDING, *STATUSES):
        told = f"submission {on_one_line(str(values['id']))} is {quoted(str(status))}"
        raise BundleError(f"{told}, says the service: expected {', '.join((*PENDING, *STATUSES))}")
    return Receipt(id=str(values["id"]), status=str(status), reasons=tuple(map(str, reasons)))
