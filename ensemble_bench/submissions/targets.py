"""Where bundles are sent: a folder of leaderboards, an upload service, or the Hugging Face Hub."""

import json
import os
import re
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ensemble_bench.errors import BundleError, InvalidValueError
from ensemble_bench.submissions.format import archive
from ensemble_bench.submissions.format.bundle import unpack
from ensemble_bench.submissions.format.untrusted import shown

TOKEN = "ENSEMBLE_BENCH_TOKEN"
SERVICES = ("http://", "https://")
HUB = "hf://"
PENDING = ("queued", "verifying")
LOCAL = ("localhost", "127.0.0.1", "::1")
# An upload is answered when it has arrived; verifying it comes later.
TIMEOUT = 600.0
MAX_ANSWER = 2**20


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What a service says of a submission: its id there, its status, and the reasons for that."""

    id: str
    status: str
    reasons: tuple[str, ...] = ()


def is_service(target: str) -> bool:
    """Whether a target is the address of an upload service; raises InvalidValueError for an address of no target."""
    scheme, found, _ = target.partition("://")
    if found and f"{scheme}://" not in (*SERVICES, HUB):
        raise InvalidValueError(f"target is {target!r}: expected a folder, {', '.join(SERVICES)} or {HUB}owner/name")
    return target.startswith(SERVICES)


def upload(bundle: Path, url: str, *, token: str | None = None) -> Receipt:
    """Send a bundle to the service at `url`; returns what it says of it.

    `token` defaults to the environment's ENSEMBLE_BENCH_TOKEN. The bundle is checked here first. Raises BundleError,
    with the service's reason, for a bundle or token that is refused and a service that does not answer;
    InvalidValueError without a token, or where http would show it to the network.
    """
    with tempfile.TemporaryDirectory() as folder:
        data = archive.packed(unpack(bundle, Path(folder) / "bundle").folder)
    return _receipt(_request(f"{_base(url)}/api/submissions", _token(token), data))


def status(url: str, identifier: str, *, token: str | None = None) -> Receipt:
    """What the service at `url` says now of a submission; raises as upload."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", identifier):
        raise BundleError(f"{url}: {shown(identifier)} is no id of a submission")
    return _receipt(_request(f"{_base(url)}/api/submissions/{identifier}", _token(token)))


def wait(
    url: str,
    receipt: Receipt,
    *,
    token: str | None = None,
    pause: float = 5.0,
    report: Callable[[Receipt], None] = lambda _: None,
) -> Receipt:
    """Ask every `pause` seconds until the service has decided; `report` hears each change. Raises as upload."""
    while receipt.status in PENDING:
        time.sleep(pause)
        now = status(url, receipt.id, token=token)
        if now != receipt:
            report(now)
        receipt = now
    return receipt


def push(bundle: Path, target: str) -> str:
    """Upload a bundle's files as the model repository hf://owner/name; returns its address.

    It is made where it does not exist, with the token that huggingface_hub finds where it always does. The bundle is
    checked first; what it claims is not. Raises BundleError for a bundle or an upload that fails.
    """
    repository = target.removeprefix(HUB)
    if not re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", repository, re.ASCII):
        raise InvalidValueError(f"target is {target!r}: expected {HUB}OWNER/NAME")
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise BundleError(f"{target}: needs huggingface_hub: pip install huggingface_hub") from error
    with tempfile.TemporaryDirectory() as folder:
        files = unpack(bundle, Path(folder) / "bundle").folder
        try:
            api = HfApi()
            api.create_repo(repository, repo_type="model", exist_ok=True)
            api.upload_folder(
                repo_id=repository, folder_path=files, repo_type="model", commit_message="Upload with ensemble-bench"
            )
        except Exception as error:  # of the library, of the one that it asks with, or of the network
            raise BundleError(f"{target}: {shown(str(error), 300)}") from error
    return f"https://huggingface.co/{repository}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would take the token elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _base(url: str) -> str:
    parts = urlsplit(url)
    if parts.query or parts.fragment or parts.username or not parts.hostname:
        raise InvalidValueError(f"target is {url!r}: expected http(s)://HOST with nothing behind it")
    if parts.scheme == "http" and parts.hostname not in LOCAL:
        raise InvalidValueError(f"target is {url!r}: http would show the token to the network, use https")
    return url.rstrip("/")


def _token(token: str | None) -> str:
    found = token or os.environ.get(TOKEN, "")
    if not re.fullmatch(r"[\x21-\x7e]+", found):
        raise InvalidValueError(f"no token: pass --token or set {TOKEN}; the service's operator gives one")
    return found


def _request(url: str, token: str, data: bytes | None = None) -> Mapping[str, Any]:
    """POST `data`, or GET without; the answer's JSON. Raises BundleError for any other answer and for none."""
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
    if data is not None:
        headers["Content-Type"] = "application/zip"
    request = urllib.request.Request(url, data=data, headers=headers)
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT) as answer:
            found = json.loads(answer.read(MAX_ANSWER))
    except urllib.error.HTTPError as error:
        raise BundleError(f"{url}: {error.code} {error.reason}: {_detail(error)}") from None
    except urllib.error.URLError as error:
        raise BundleError(f"{url}: no answer: {error.reason}") from None
    except (OSError, HTTPException, ValueError, RecursionError) as error:
        raise BundleError(f"{url}: not an upload service of ensemble-bench: {shown(str(error), 200)}") from None
    if not isinstance(found, dict):
        raise BundleError(f"{url}: not an upload service of ensemble-bench: its answer is no object")
    return found


def _detail(error: urllib.error.HTTPError) -> str:
    """Why a service refuses, as it says so."""
    try:
        found = json.loads(error.read(MAX_ANSWER))
        return shown(str(found.get("detail") or found.get("reasons") or found), 500)
    except (OSError, HTTPException, ValueError, AttributeError, RecursionError):
        return "it does not say why"


def _receipt(values: Mapping[str, Any]) -> Receipt:
    reasons = values.get("reasons") or ()
    if not isinstance(values.get("id"), str | int) or not isinstance(reasons, list | tuple):
        raise BundleError("the service's answer has no id: not an upload service of ensemble-bench")
    return Receipt(id=str(values["id"]), status=str(values.get("status", "unknown")), reasons=tuple(map(str, reasons)))
