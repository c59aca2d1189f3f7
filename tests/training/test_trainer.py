"""Whole runs on digits with few steps: what they leave behind, how they stop, and that going on changes nothing."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rounding
import torch

import ensemble_bench as eb
from ensemble_bench import losses
from ensemble_bench.data import DataSource
from ensemble_bench.errors import AttackError, CheckpointError, InvalidValueError, RecordError, UnknownNameError
from ensemble_bench.models import checkpoint
from ensemble_bench.records import curves
from ensemble_bench.training import interrupts, presets, rundir, state
from ensemble_bench.training.trainer import train
from ensemble_bench.training.validation import validate

STEPS, EVERY, CHECKPOINT = 12, 5, 3


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny runs that evaluate every 5 steps on 20 images and write a resume point every 3."""
    _shorten(monkeypatch.setitem)


def _shorten(set_item: Callable[[Any, str, Any], None]) -> None:
    tiny = presets.PRESETS["tiny"]
    quick = replace(
        tiny.on("digits"),
        steps=STEPS,
        evaluate_every=EVERY,
        evaluate_n=20,
        checkpoint_every=CHECKPOINT,
        batch_size=32,
        average=0.0,
    )
    set_item(presets.PRESETS, "tiny", replace(tiny, settings={"digits": quick}))


def _stop_at(step: int) -> Callable[..., None]:
    def progress(label: str, done: int, total: int, **fields: float | str) -> None:
        if done == step:
            raise KeyboardInterrupt

    return progress


def _without_seconds(run: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in curves.read(run / "curves.csv")]


def _same(a: Path, b: Path) -> None:
    """Both runs hold the same weights bit for bit, the same metadata and the same curves."""
    for name in ("best", "last"):
        first, second = checkpoint.read_info(a / f"{name}.safetensors"), checkpoint.read_info(b / f"{name}.safetensors")
        assert first.weights_hash == second.weights_hash
        assert first.meta == second.meta
    assert _without_seconds(a) == _without_seconds(b)
    assert not (a / rundir.RESUME).exists()
    assert not (b / rundir.RESUME).exists()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of ensemble2adv."""
    with pytest.MonkeyPatch.context() as patch:
        _shorten(patch.setitem)
        return train("ensemble2adv", out=tmp_path_factory.mktemp("whole") / "run")


def test_a_run_leaves_what_readers_need(whole: Path, digits: DataSource) -> None:
    run = json.loads((whole / "run.json").read_text())
    assert (run["recipe"], run["preset"], run["dataset"], run["seed"]) == ("ensemble2adv", "tiny", "digits", 0)
    assert run["data_hash"] == digits.fingerprint
    assert run["threat"] == {"norm": "linf", "eps": 32 / 255}
    assert run["settings"]["batch_size"] == 32
    assert run["precision"] == "float32"
    assert run["validation_n"] == 20
    assert {"versions", "commit", "device", "objective", "architecture"} <= run.keys()

    rows = curves.read(whole / "curves.csv")
    assert [row["step"] for row in rows] == [5, 10, STEPS]
    assert all(0 <= row[name] <= 1 for row in rows for name in ("clean", *curves.ATTACKS))
    assert all(row["loss"] > 0 and row["lr"] > 0 for row in rows)

    best, last = checkpoint.read_info(whole / "best.safetensors"), checkpoint.read_info(whole / "last.safetensors")
    assert last.meta["step"] == STEPS
    assert best.meta["checkpoint"] == "best"
    assert last.meta["seeds"] == [0]
    top = max(row["ifgsm5"] for row in rows)
    assert best.meta["step"] == next(row["step"] for row in rows if row["ifgsm5"] == top)
    assert best.meta["validation"]["ifgsm5"] == top


def test_curves_hold_the_accuracies_of_the_checkpoint(whole: Path, digits: DataSource) -> None:
    model = eb.load(whole / "last.safetensors")
    images = digits.split("validation").first(20)
    threat = eb.ThreatModel(eps=digits.default_eps)
    found = validate(model, images, threat, seed=0, precision="float32", device=torch.device("cpu"))
    row = curves.read(whole / "curves.csv")[-1]
    assert found == {name: row[name] for name in found}
    x, y = images.batch(slice(None))
    with torch.no_grad():
        margin = losses.margin(model(x), y)
    # Another batch rounds otherwise, which may tip an image that is all but undecided.
    assert (margin < -1e-4).sum() <= 20 * found["clean"] <= (margin < 1e-4).sum()


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(whole: Path, tmp_path: Path) -> None:
    state_before = torch.random.get_rng_state()
    again = train("ensemble2adv", out=tmp_path / "again")
    assert torch.equal(torch.random.get_rng_state(), state_before)
    _same(whole, again)
    other = train("ensemble2adv", out=tmp_path / "other", seed=1)
    hashes = [checkpoint.read_info(run / "last.safetensors").weights_hash for run in (whole, other)]
    assert hashes[0] != hashes[1]


@pytest.mark.parametrize("step", [0, 1, 4, 5, 11, 12])
def test_ctrl_c_and_resume_change_nothing(whole: Path, tmp_path: Path, step: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        train("ensemble2adv", out=tmp_path / "run", progress=_stop_at(step))
    assert (tmp_path / "run" / rundir.RESUME).exists()
    _same(whole, train("ensemble2adv", out=tmp_path / "run", resume=True))


def test_ctrl_c_during_an_evaluation_repeats_it(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ensemble_bench.training import run

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run, "validate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train("ensemble2adv", out=tmp_path / "run")
    assert curves.read(tmp_path / "run" / "curves.csv") == []
    _same(whole, train("ensemble2adv", out=tmp_path / "run", resume=True))


KILLED = """
import os, sys
from pathlib import Path
import torch
torch.set_num_threads(int(sys.argv[3]))
from ensemble_bench.training import run, rundir, state, trainer
sys.path[:0] = [sys.argv[4], str(Path(sys.argv[4]).parent)]
from test_trainer import _shorten
_shorten(lambda table, key, value: table.__setitem__(key, value))
where = sys.argv[2]

def die(*_, **__):
    os._exit(137)

if where.isdigit():
    def progress(label, done, total, **fields):
        if done == int(where):
            die()
else:
    progress = lambda *_, **__: None
    if where == "before best":
        run.save_checkpoint = die
    if where == "before resume point":
        state.save = die
trainer.train("ensemble2adv", out=sys.argv[1], progress=progress)
"""


@pytest.mark.skipif(bool(rounding.SEED), reason="a process of its own rounds as this processor does")
@pytest.mark.parametrize("where", ["8", "before best", "before resume point"])
def test_kill_and_resume_change_nothing(whole: Path, tmp_path: Path, where: str) -> None:
    arguments = [str(tmp_path / "run"), where, str(torch.get_num_threads()), str(Path(__file__).parent)]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False)
    assert done.returncode == 137
    _same(whole, train("ensemble2adv", out=tmp_path / "run", resume=True))


@pytest.mark.usefixtures("interruptible")
def test_interrupts_wait_for_the_end_of_a_block() -> None:
    reached = []

    def block() -> None:
        with interrupts.deferred():
            os.kill(os.getpid(), signal.SIGINT)
            reached.append("end")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert reached == ["end"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_finished_run_is_returned_at_once(whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.iterdir()}
    said: list[dict[str, object]] = []
    train("ensemble2adv", out=whole, progress=lambda label, done, total, **fields: said.append(fields))
    assert said == [{"status": "finished before"}]
    assert {path: path.stat().st_mtime_ns for path in whole.iterdir()} == before


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"seed": 1}, "seed is 0 there, 1 here"),
        ({"max_steps": 7}, "steps is 12 there, 7 here"),
        ({"eps": 0.05}, "threat.eps"),
        ({"objective": "member-mean"}, "objective"),
        ({"train_attack": "ifgsm7"}, "settings.train_attack"),
        ({"recipe": "ensemble4adv"}, "recipe is 'ensemble2adv' there, 'ensemble4adv' here"),
    ],
)
def test_another_request_overwrites_nothing(whole: Path, other: dict[str, Any], message: str) -> None:
    before = {path: path.read_bytes() for path in whole.iterdir()}
    request = {"recipe": "ensemble2adv", "out": whole, "resume": True} | other
    with pytest.raises(InvalidValueError, match=message) as caught:
        train(**request)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in whole.iterdir()} == before


def test_an_unfinished_run_wants_resume(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train("baseline", out=tmp_path / "run", progress=_stop_at(4))
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(InvalidValueError, match="--resume"):
        train("baseline", out=tmp_path / "run")
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train("baseline", out=tmp_path / "run", progress=_stop_at(4))
    (tmp_path / "run" / rundir.RESUME).write_bytes(b"not a safetensors file")
    with pytest.raises(CheckpointError, match="not a resume point"):
        train("baseline", out=tmp_path / "run", resume=True)
    (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"run\.json"):
        train("baseline", out=tmp_path / "run", resume=True)
    (tmp_path / "run" / "run.json").unlink()
    with pytest.raises(InvalidValueError, match="another --out"):
        train("baseline", out=tmp_path / "run")
    (tmp_path / "file").touch()
    with pytest.raises(InvalidValueError, match="another --out"):
        train("baseline", out=tmp_path / "file")


def test_unknown_names_come_before_any_folder(tmp_path: Path) -> None:
    for request, near in (
        ({"recipe": "ensemble2avd"}, "ensemble2adv"),
        ({"recipe": "baseline", "preset": "tny"}, "tiny"),
        ({"recipe": "baseline", "dataset": "digit"}, "digits"),
    ):
        with pytest.raises(UnknownNameError, match=f"did you mean .*{near}"):
            train(**request, out=tmp_path / "run")  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_divergence_stops_with_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = presets.PRESETS["tiny"]
    wild = replace(tiny.on("digits"), learning_rate=1e30)
    monkeypatch.setitem(presets.PRESETS, "tiny", replace(tiny, settings={"digits": wild}, tuned={}))
    with pytest.raises(AttackError, match=r"diverged: the loss of step \d+ is (nan|inf)"):
        train("baseline", out=tmp_path / "clean")
    with pytest.raises(AttackError, match=r"step \d+"):
        train("singleadv", out=tmp_path / "adversarial")


def test_only_adversarial_recipes_attack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ensemble_bench.training import trainer

    monkeypatch.setattr(trainer, "perturb", lambda *_, **__: pytest.fail("attacked"))
    train("ensemble2", out=tmp_path / "run", max_steps=2)


def test_every_recipe_trains(tmp_path: Path) -> None:
    for recipe in ("doubleadv", "quadadv", "gated2adv", "ensemble4adv", "separate4adv"):
        run = train(
            recipe, out=tmp_path / recipe, max_steps=2, train_attack="ifgsm7" if recipe == "gated2adv" else None
        )
        assert eb.load(run).info.meta["recipe"] == recipe


@pytest.mark.parametrize("preset", ["small", "modern", "paper"])
def test_every_preset_trains_on_digits(tmp_path: Path, preset: str) -> None:
    run = train("baseline", preset=preset, out=tmp_path / preset, max_steps=1)
    assert checkpoint.read_info(run).meta["preset"] == preset


def test_separate2adv_joins_two_runs_and_trains_nothing_that_exists(tmp_path: Path) -> None:
    first = train("singleadv", out=tmp_path / "singleadv-digits-tiny-s0")
    with pytest.raises(KeyboardInterrupt):
        train("singleadv", seed=1, out=tmp_path / "singleadv-digits-tiny-s1", progress=_stop_at(4))
    before = {path: path.stat().st_mtime_ns for path in first.iterdir()}
    joined = train("separate2adv", out=tmp_path / "separate2adv-digits-tiny-s0")
    assert {path: path.stat().st_mtime_ns for path in first.iterdir()} == before
    second = tmp_path / "singleadv-digits-tiny-s1"
    assert rundir.is_finished(second)

    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for name in ("best", "last"):
        whole, a, b = (eb.load(run / f"{name}.safetensors") for run in (joined, first, second))
        expected = ((a(x).exp() + b(x).exp()) / 2).log()
        torch.testing.assert_close(whole(x), expected)
        assert whole.info.meta["seeds"] == [0, 1]
        assert whole.info.meta["recipe"] == "separate2adv"
        assert whole.info.meta["member_steps"] == [part.info.meta["step"] for part in (a, b)]
    assert not (joined / "curves.csv").exists()

    labels: list[str] = []
    train("separate2adv", out=joined, progress=lambda label, *_, **__: labels.append(label))
    assert not any(label == "train" for label in labels)
    with pytest.raises(InvalidValueError, match="holds another run"):
        train("separate2adv", out=joined, seed=1)


@pytest.mark.parametrize("joined_before", [False, True])
def test_runs_that_kept_only_their_averages_are_joined_and_finished(tmp_path: Path, joined_before: bool) -> None:
    def join() -> Path:
        return train("separate2adv", runs=tmp_path, max_steps=2, settings={"average": 0.5})

    members = [train("singleadv", runs=tmp_path, seed=s, max_steps=2, settings={"average": 0.5}) for s in (0, 1)]
    if joined_before:
        whole = join()
        (whole / "last.safetensors").unlink()
    for member in members:
        (member / "last.safetensors").unlink()
    whole = join()
    assert rundir.is_finished(whole)
    assert [path.name for path in whole.glob("*.safetensors")] == ["averaged.safetensors"]
    assert len(eb.load(whole).members) == 2
    before = {path: path.read_bytes() for path in whole.iterdir()}
    assert {path: path.read_bytes() for path in join().iterdir()} == before


def test_weights_of_a_joined_run_that_are_gone_are_joined_again(tmp_path: Path) -> None:
    """As benchmarks/keep_runs.py leaves them out, whose members it keeps."""
    for kept_as in ("float32", "float16"):
        settings = {"average": 0.5, "saved_as": kept_as}
        joined = train("separate2adv", runs=tmp_path / kept_as, max_steps=2, settings=settings)
        before = {path: path.read_bytes() for path in joined.iterdir()}
        for path in joined.glob("*.safetensors"):
            path.unlink()
        train("separate2adv", runs=tmp_path / kept_as, max_steps=2, settings=settings)
        assert {path: path.read_bytes() for path in joined.iterdir()} == before


def test_a_member_that_changed_is_not_joined_silently(tmp_path: Path) -> None:
    joined = train("separate2adv", out=tmp_path / "joined", max_steps=2)
    member = tmp_path / "singleadv-digits-tiny-steps-2-s0"
    (member / "last.json").unlink()
    (member / "last.safetensors").unlink()
    model = eb.load(member / "best.safetensors")
    checkpoint.save(member / "last.safetensors", model, model.info.architecture, {**model.info.meta, "step": 2})
    train("separate2adv", out=joined, max_steps=2)  # the same weights
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    checkpoint.save(member / "last.safetensors", model, model.info.architecture, {**model.info.meta, "step": 2})
    with pytest.raises(InvalidValueError, match="joins"):
        train("separate2adv", out=joined, max_steps=2)


def test_curves_round_trip_and_refuse_foreign_files(tmp_path: Path) -> None:
    row = dict.fromkeys(curves.CURVE_COLUMNS, 1 / 3) | {"step": 7}
    curves.write(tmp_path / "curves.csv", [row, row])
    assert curves.read(tmp_path / "curves.csv") == [row, row]
    assert curves.read(tmp_path / "none.csv") == []
    (tmp_path / "curves.csv").write_text("a,b\n1,2\n")
    with pytest.raises(RecordError, match="expected the columns"):
        curves.read(tmp_path / "curves.csv")
    (tmp_path / "curves.csv").write_text(",".join(curves.CURVE_COLUMNS) + "\n1,2\n")
    with pytest.raises(RecordError, match="row"):
        curves.read(tmp_path / "curves.csv")


def test_resume_points_restore_momentum(tmp_path: Path, digits: DataSource) -> None:
    a, b = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in (a, b)]
    x = torch.rand(4, 3, generator=torch.Generator().manual_seed(1))

    def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()

    step(a, optimizers[0])
    state.save(
        tmp_path / "resume.safetensors", a, optimizers[0], state.TrainingState(step=1, best={"step": 1, "ifgsm5": 0.5})
    )
    reached = state.load(tmp_path / "resume.safetensors", b, optimizers[1])
    assert (reached.step, reached.best) == (1, {"step": 1, "ifgsm5": 0.5})
    for model, optimizer in zip((a, b), optimizers, strict=True):
        step(model, optimizer)
    assert torch.equal(a.weight, b.weight)
