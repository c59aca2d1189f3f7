"""`ensemble-bench serve` and its tokens."""

import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ensemble_bench.cli import serve
from ensemble_bench.errors import InvalidValueError, UnknownNameError
from ensemble_bench.server import settings as service_settings
from ensemble_bench.server.settings import ServiceSettings
from ensemble_bench.server.store import Store


def run(*arguments: str) -> str:
    result = CliRunner().invoke(serve.app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_tokens_are_made_listed_and_revoked(tmp_path: Path) -> None:
    data = tmp_path / "data"
    token = run("token", "create", "alice", "--data", str(data)).strip()
    assert data.stat().st_mode & 0o077 == 0
    store = Store(ServiceSettings(data=data).store)
    found = store.find_token(token)
    assert found is not None
    assert found.owner == "alice"
    assert "alice" in run("token", "list", "--data", str(data))
    run("token", "revoke", "alice", "--data", str(data))
    with pytest.raises(UnknownNameError):
        run("token", "revoke", "alice", "--data", str(data))


def test_options_reach_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = pytest.importorskip("ensemble_bench.server.service", reason="the extra [server] is not installed")
    seen: dict[str, object] = {}
    monkeypatch.setattr(service, "serve", lambda settings, **options: seen.update(options, settings=settings))
    options = "--host 0.0.0.0 --port 81 --suite quick --n 50 --max-bytes 1000 --max-unpacked-bytes 2000 --max-members 3"
    more = "--max-parameters 4 --requests-per-minute 5 --attempts 6 --hours 0.5 --device cpu --no-worker"
    run("--data", str(tmp_path), *options.split(), *more.split())
    assert (seen["host"], seen["port"], seen["worker"]) == ("0.0.0.0", 81, None)
    assert seen["settings"] == ServiceSettings(
        data=tmp_path,
        suite="quick",
        n=50,
        device="cpu",
        limits=service_settings.Limits(max_bytes=1000, max_unpacked_bytes=2000, max_members=3, max_parameters=4),
        requests_per_minute=5,
        attempts=6,
        hours=0.5,
    )


@pytest.mark.parametrize(
    "wrong", [{"suite": "nonesuch"}, {"n": 0}, {"attempts": 0}, {"hours": 0.0}, {"memory": math.inf}, {"memory": 4e9}]
)
def test_settings_are_checked_before_anything_starts(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidValueError, match=str(next(iter(wrong.values())))):
        ServiceSettings(data=tmp_path, **wrong)  # type: ignore[arg-type]
