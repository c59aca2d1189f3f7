"""Nobody is kept waiting by another's submissions, and none takes more of the machine than it is given."""

import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sample_bundles import claiming_32_times, files_of, honest, opened, rehashed, zipped
from test_faults import status, waiting
from test_worker import Desk

from ensemble_bench.errors import BundleError
from ensemble_bench.leaderboard.rules import write_rules
from ensemble_bench.models import cost
from ensemble_bench.models.architecture import Architecture
from ensemble_bench.models.build import build
from ensemble_bench.server import uploads, worker
from ensemble_bench.server.settings import ServiceSettings
from ensemble_bench.server.store import Quota, QuotaError, Store
from ensemble_bench.server.worker import judge, work_once
from ensemble_bench.submissions import bench, price, publishing, verification
from ensemble_bench.submissions.format.bundle import unpack
from ensemble_bench.submissions.price import batch_in, check_price, flops_of, rules_to_price

SMALL = Architecture(
    backbone="wrn", depth=10, classes=10, image_shape=(3, 32, 32), mean=(0.5,) * 3, std=(0.25,) * 3, members=2
)
# 220 million parameters, within the limits of a bundle.
HUGE = Architecture(
    backbone="wrn", depth=100, width=3.0, classes=10, image_shape=(3, 32, 32), mean=(0.5,) * 3, std=(0.25,) * 3,
    members=16,
)  # fmt: skip
CONFINED = """
import torch
from ensemble_bench.server.confinement import bounded, flush_denormals
from ensemble_bench.submissions.faults import no_memory
small = torch.full((4,), 1e-40)
assert (small * 1).any()
flush_denormals()
threads = []
import threading
thread = threading.Thread(target=lambda: threads.append((small * 1).any().item()))
thread.start()
thread.join()
assert not (small * 1).any() and threads == [False]
try:
    with bounded({memory}):
        torch.ones(2**28)
except (MemoryError, RuntimeError) as error:
    assert no_memory(error), error
    print("no memory")
else:
    print("memory")
assert len(torch.ones(2**28)) == 2**28
"""


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "data")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "service.sqlite")


def add(store: Store, identifier: str, owner: str, **about: object) -> str:
    return store.add(identifier, owner=owner, name="m", weights_hash="w", **about)  # type: ignore[arg-type]


def test_owners_take_turns(store: Store) -> None:
    for i in range(12):
        add(store, f"alice{i}", "alice")
    add(store, "bob0", "bob")
    add(store, "carol0", "carol")
    add(store, "bob1", "bob")
    order = [taken.id for taken in iter(store.take, None)]
    assert order[:6] == ["alice0", "bob0", "carol0", "alice1", "bob1", "alice2"]
    assert order[6:] == [f"alice{i}" for i in range(3, 12)]
    # Who comes again later has the turn of one who waited.
    for identifier, owner in (("alice_", "alice"), ("bob2", "bob")):
        add(store, identifier, owner)
    assert [taken.id for taken in iter(store.take, None)] == ["bob2", "alice_"]


def test_a_crash_costs_the_turn_and_not_the_place(store: Store) -> None:
    for identifier, owner in (("a0", "alice"), ("a1", "alice"), ("b0", "bob")):
        add(store, identifier, owner)
    assert store.take().id == "a0"  # type: ignore[union-attr]
    store.requeue(crashes=1)
    assert [taken.id for taken in iter(store.take, None)] == ["b0", "a0", "a1"]


def test_a_quota_holds_at_once(store: Store) -> None:
    """Many at the same moment get what one after the other would."""
    quota, taken, refused = Quota(pending=5, daily=100), list[str](), list[str]()
    gate = threading.Barrier(20)

    def one(i: int) -> None:
        gate.wait()
        try:
            taken.append(add(store, str(i), "alice", digest=str(i % 10), quota=quota))
        except QuotaError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=one, args=(i,)) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.pending()) == 5
    assert set(taken) == store.pending()
    assert len(taken) + len(refused) == 20


def test_the_price_is_passes_by_flops() -> None:
    bundle = opened()
    (claim,) = bundle.claims
    # Forward and backward at every step of both attacks, verdicts on the clean and the last image of each; the suite's.
    steps, n = 5 + 10, claim.n
    assert flops_of(bundle) == pytest.approx(2e7 * n * (2 * steps + 2 * 2 + 2), rel=0.1)
    assert flops_of(bundle, n=6) == flops_of(bundle) / 10
    check_price(bundle, 1.01 * flops_of(bundle))
    with pytest.raises(BundleError, match="FLOPs"):
        check_price(bundle, 0.99 * flops_of(bundle))
    assert flops_of(bundle, rules=bench.Rules()) > flops_of(bundle)


def test_rules_that_ask_for_all_images_are_priced_by_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim on one image would make an evaluation on the whole split as cheap as one on that image."""
    bundle = opened()
    few = replace(bundle, claims=(replace(bundle.claims[0], n=1),))
    assert rules_to_price(few, tmp_path, None) is None  # no board.json: nothing is evaluated beside the claims
    write_rules(bench.Rules(suite="ifgsm5+probe"), tmp_path)
    rules = rules_to_price(few, tmp_path, None)
    assert rules == bench.Rules(suite="ifgsm5+probe", n=360)
    told = flops_of(few, rules=rules) - flops_of(few)
    assert told == pytest.approx(10 * flops_of(few, rules=replace(rules, n=36)) - 10 * flops_of(few))
    assert flops_of(few, rules=bench.Rules(suite="ifgsm5+probe")) > told  # where nobody says how many there are
    # Rules that say how many need no data.
    monkeypatch.setattr(price.data, "open_source", lambda *_: pytest.fail("the data were opened"))
    write_rules(bench.Rules(n=7), tmp_path)
    assert rules_to_price(few, tmp_path, tmp_path) == bench.Rules(n=7)


def test_a_batch_fits_into_memory() -> None:
    weights = 3 * 4 * cost.parameters(SMALL)
    each = 2 * cost.activation_bytes(SMALL)
    assert batch_in(weights + 10 * each, SMALL, most=128) == 10
    assert batch_in(weights + 1000 * each, SMALL, most=128) == 128
    with pytest.raises(BundleError, match="GiB to attack one image"):
        batch_in(weights + each - 1, SMALL, most=128)
    # What layers of one member give, counted in another way: by a forward pass that keeps its tensors.
    kept = 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    model = build(SMALL).eval()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.zeros(1, *SMALL.image_shape, requires_grad=True))
    assert kept / 4 < each / 2 < 4 * kept


def test_the_largest_legal_model_gets_a_small_batch() -> None:
    """A batch of 128 of it would take 43 GiB."""
    assert 128 * cost.activation_bytes(HUGE) > 40 * 2**30
    assert cost.parameters(HUGE) < 250_000_000
    assert 1 <= batch_in(8 * 2**30, HUGE, most=128) < 16
    with pytest.raises(BundleError, match=r"at most 2\.0 are given"):
        batch_in(2 * 2**30, HUGE, most=128)


def test_the_verifier_is_held_to_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    real = bench.evaluate_checkpoints

    def noted(*args: object, **options: object) -> object:
        sizes.append(options["batch_size"])
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(bench, "evaluate_checkpoints", noted)
    architecture = Architecture.from_dict(opened().config["architecture"])
    memory = 3 * 4 * cost.parameters(architecture) + 7 * 2 * cost.activation_bytes(architecture)
    found = verification.verify(honest(), work=tmp_path / "bounded", memory=memory)
    assert (found.status, sizes) == ("verified", [7])
    assert verification.verify(honest(), work=tmp_path / "free").records[0].id == found.records[0].id
    found = verification.verify(honest(), work=tmp_path / "none", memory=1000)
    assert found.status == "refused"
    assert "GiB" in found.reasons[0]


@pytest.mark.skipif(sys.platform != "linux", reason="bounds on addresses hold on Linux")
@pytest.mark.parametrize(("memory", "told"), [(2**28, "no memory"), (None, "memory")])
def test_the_workers_process_is_confined(memory: int | None, told: str) -> None:
    """Denormal numbers are zero in every thread, and a gigabyte is not to be had."""
    said = subprocess.run(
        [sys.executable, "-c", CONFINED.format(memory=memory)], capture_output=True, text=True, check=False
    )
    assert said.stdout.strip() == told, said.stderr


def test_what_takes_too_long_in_all_is_refused(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ended(BaseException):
        pass

    ended = threading.Event()
    monkeypatch.setattr(worker.os, "_exit", lambda _: ended.set())
    monkeypatch.setattr(worker, "TICK", 0.01)
    settings = ServiceSettings(data=desk.settings.data, hours=0.05 / 3600)
    identifier = waiting(desk, honest())
    desk.store.spend(identifier, 0.04)  # by an attempt before

    def endless(*_: object) -> tuple[str, tuple[str, ...]]:
        assert ended.wait(60)
        raise Ended

    with pytest.raises(Ended):
        work_once(settings, desk.store, endless)
    assert status(desk, identifier)[0] == "refused"
    assert "hours" in status(desk, identifier)[1][0]
    assert not desk.settings.upload(identifier).exists()


def test_no_time_runs_out_while_a_model_is_published(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A submission whose time is over then is verified, and not refused with its files on the board."""
    ends: list[int] = []
    monkeypatch.setattr(worker.os, "_exit", ends.append)
    monkeypatch.setattr(worker, "TICK", 0.01)
    real, identifier = publishing.publish, waiting(desk, honest())

    def slow(*args: object) -> object:
        desk.store.spend(identifier, 10**9)
        time.sleep(0.2)
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(publishing, "publish", slow)
    assert work_once(desk.settings, desk.store, judge)
    assert (status(desk, identifier), ends) == (("verified", ()), [])


def test_expensive_submissions_are_refused_or_bounded_and_the_next_goes_on(desk: Desk, tmp_path: Path) -> None:
    """32 claims of margin-t5000; a model that takes more memory than is given; weights that are denormal numbers."""
    files = files_of(honest())
    upload = zipped(claiming_32_times(files), tmp_path / "claims.zip")
    with pytest.raises(BundleError, match="FLOPs"):
        uploads.check(upload, ServiceSettings(data=desk.settings.data))
    small = ServiceSettings(data=desk.settings.data, n=20, memory=1e-4)
    large = waiting(desk, honest(), owner="large")
    assert work_once(small, desk.store, judge)
    assert status(desk, large)[0] == "refused"
    assert "GiB" in status(desk, large)[1][0]
    head = 8 + int.from_bytes(files["model.safetensors"][:8], "little")
    numbers = torch.full(((len(files["model.safetensors"]) - head) // 4,), 1e-41).numpy().tobytes()
    denormal = rehashed(files | {"model.safetensors": files["model.safetensors"][:head] + numbers})
    path = zipped(denormal, tmp_path / "denormal.zip")
    unpack(path, tmp_path / "whole")  # a legal bundle
    slow = waiting(desk, path, owner="slow")
    assert work_once(desk.settings, desk.store, judge)
    assert status(desk, slow)[0] in ("refused", "not reproduced")
    assert work_once(desk.settings, desk.store, judge) is False
    waiting(desk, honest())
    assert work_once(desk.settings, desk.store, judge)
    assert len(desk.rows()) == 1
