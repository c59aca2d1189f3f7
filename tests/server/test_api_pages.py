"""What the service serves to whom, and how often."""

from typing import NoReturn

import pytest
from running_services import Service, Services, protected, refused
from sample_bundles import honest
from services import ask, submit

from ensemble_bench.server.ratelimit import RateLimit


def test_the_site_and_its_files(service: Service) -> None:
    index = ask(service.port, "GET", "/")
    assert (index.status, index.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert index.body == (service.settings.site / "index.html").read_bytes()
    protected(index)
    assert "script-src 'sha256-" in index.headers["content-security-policy"]
    for form, kind in (("csv", "text/csv; charset=utf-8"), ("json", "application/json")):
        for path in (f"/api/leaderboard.{form}", f"/leaderboard.{form}"):
            answer = ask(service.port, "GET", path)
            assert (answer.status, answer.headers["content-type"]) == (200, kind)
            assert answer.body == (service.settings.site / f"leaderboard.{form}").read_bytes()
            protected(answer)
    assert ask(service.port, "HEAD", "/leaderboard.csv").status == 200


def test_folders_have_an_index_or_nothing(service: Service) -> None:
    page, empty = service.settings.site / "models" / "m", service.settings.site / "empty"
    page.mkdir(parents=True)
    empty.mkdir()
    (page / "index.html").write_text("a model")
    (page / "best.safetensors").write_bytes(b"weights")
    moved = ask(service.port, "GET", "/models/m")
    assert (moved.status, moved.headers["location"]) == (307, "./m/")
    assert ask(service.port, "GET", "/models/m/").body == b"a model"
    weights = ask(service.port, "GET", "/models/m/best.safetensors")
    assert (weights.body, weights.headers["content-type"]) == (b"weights", "application/octet-stream")
    refused(ask(service.port, "GET", "/models/"), 404)
    refused(ask(service.port, "GET", "/empty/"), 404)


@pytest.mark.parametrize(
    "path",
    [
        "/../service.sqlite",
        "/%2e%2e/service.sqlite",
        "/..%2fservice.sqlite",
        "/..%5cservice.sqlite",
        "/models/../../service.sqlite",
        "//etc/passwd",
        "/%2fetc/passwd",
        "/.hidden",
        "/a%00b",
        "/index.html/x",
        "/index.html/",
        "/docs",
        "/openapi.json",
        "/api",
        "/api/",
        "/api/nothing",
        "/api/leaderboard.html",
        "/api/leaderboard.%2e%2e",
        f"/{'a' * 5000}",
        "/%ff",
    ],
)
def test_nothing_else_is_served(service: Service, path: str) -> None:
    (service.settings.site / ".hidden").write_text("hidden")
    refused(ask(service.port, "GET", path), 404)


def test_other_methods_are_refused(service: Service) -> None:
    for method, path in (("DELETE", "/"), ("PUT", "/api/submissions"), ("POST", "/api/leaderboard.csv")):
        refused(ask(service.port, method, path, token=service.token), 405)


def test_who_asks_too_often_waits(services: Services) -> None:
    service = services.start(requests_per_minute=3)
    for _ in range(3):
        assert ask(service.port, "GET", "/api/leaderboard.csv").status == 200
    answer = ask(service.port, "GET", "/api/leaderboard.csv")
    refused(answer, 429, "wait")
    assert 0 < int(answer.headers["retry-after"]) <= 60
    refused(submit(service.port, "wrong", b"x"), 429)
    # One with a token has its own count, and pages are not counted.
    for _ in range(3):
        refused(ask(service.port, "GET", "/api/submissions/x", token=service.token), 404)
    refused(submit(service.port, service.token, honest().read_bytes()), 429)
    assert ask(service.port, "GET", "/").status == 200
    assert not service.kept()


def test_rates_are_by_caller_and_minute() -> None:
    now = 0.0
    rate = RateLimit(2, clock=lambda: now)
    assert [rate.wait("a"), rate.wait("a"), rate.wait("b")] == [0, 0, 0]
    now = 20.0
    assert [rate.wait("a"), rate.wait("b")] == [40, 0]
    now = 60.0
    assert [rate.wait("a"), rate.wait("a"), rate.wait("a")] == [0, 0, 60]


def test_rates_of_many_callers_take_bounded_memory_and_steps() -> None:
    """Requests of many addresses: each is remembered and forgotten at most once."""

    class Counted(dict[str, tuple[float, int]]):
        steps = 0

        def __delitem__(self, key: str) -> None:
            Counted.steps += 1
            super().__delitem__(key)

        def items(self) -> NoReturn:  # type: ignore[override]
            raise AssertionError("looks at all of them")

        __iter__ = dict.__iter__

    now, most, requests = 0.0, 1000, 20_000
    rate = RateLimit(2, clock=lambda: now, callers=most)
    rate._minutes = Counted()
    for i in range(requests):
        rate.wait(f"address {i}")
        assert len(rate._minutes) <= most
    assert Counted.steps == requests - most
    assert rate.wait(f"address {requests - 1}") == 0
    assert rate.wait(f"address {requests - 1}") == 60
    now = 60.0
    assert rate.wait("new") == 0
    assert len(rate._minutes) == 1
