"""Evaluating models from elsewhere: records, folders, defaults, and one line for what a model cannot do."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import ARCHITECTURE, trained

from ensemble_bench.cli import run
from ensemble_bench.cli.console import show_records
from ensemble_bench.errors import CheckpointError, EnsembleBenchError, InvalidValueError
from ensemble_bench.evaluation.diagnostics import diagnose
from ensemble_bench.evaluation.runner import evaluate, evaluate_checkpoints
from ensemble_bench.leaderboard.board import write_leaderboard
from ensemble_bench.models import checkpoint
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.models.sources import load
from ensemble_bench.records import Record, read_samples
from ensemble_bench.reports import write_report
from ensemble_bench.reports.comparison import compare

N = 12
CODE = """
import torch
from torch import nn
from small_models import Wrapped, trained

def a():
    return trained().members[0]
def b():
    return trained(seed=1).members[0]
def warm():
    return Wrapped(a(), lambda logits, x: logits / 2)
def seven():
    return Wrapped(a(), lambda logits, x: logits[:, :7])
def flat():
    return Wrapped(a(), lambda logits, x: logits[:, 0])
def nan():
    return Wrapped(a(), lambda logits, x: logits * float("nan"))
def fails():
    return nn.Conv2d(3, 10, 3)
def bare():
    return nn.Flatten()
class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = a()
    def forward(self, x):
        return self.net(x + 0.01 * torch.randn_like(x))
"""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    Path("own_nets.py").write_text(CODE)
    yield
    sys.modules.pop("own_nets", None)


def scored(*models: str, suite: str = "ifgsm3", dataset: str | None = "digits", **options: object) -> list[Record]:
    return evaluate_checkpoints(models, suite=suite, dataset=dataset, n=N, **options)  # type: ignore[arg-type]


def test_a_model_of_the_users_code_gets_a_record_that_is_read_the_next_time() -> None:
    (record,) = scored("own_nets:a")
    assert record.path is not None
    assert record.path.parent.parent == Path("runs/own_nets_a/evaluations")
    assert (record.model, record.run) == ("own_nets:a", "own_nets:a")
    assert (record.recipe, record.preset, record.seeds, record.checkpoint) == (None, None, (), None)
    assert (record.forward_passes, record.threat.norm, record.threat.eps) == (1, "linf", 32 / 255)
    alone = evaluate(Ensemble([trained().members[0]]).eval(), dataset="digits", suite="ifgsm3", n=N)
    assert alone.record.robust == record.robust
    before = {path: path.stat().st_mtime_ns for path in record.path.parent.iterdir()}
    assert scored("own_nets:a") == [record]
    assert {path: path.stat().st_mtime_ns for path in record.path.parent.iterdir()} == before


def test_a_hash_names_the_function_whatever_the_images() -> None:
    (first,) = scored("own_nets:a")
    (other,) = scored("own_nets:a", suite="margin3", split="validation")
    (warm,) = scored("own_nets:warm")  # the same weights
    assert first.weights_hash == other.weights_hash != warm.weights_hash
    assert len({record.weights_hash for record in scored("own_nets:Noisy") + scored("own_nets:Noisy")}) == 1


def test_a_joined_ensemble_is_scored_whole_and_in_parts(tmp_path: Path) -> None:
    joined = "own_nets:a+own_nets:b"
    parts = "margin3+mean-member3"
    whole, *_ = records = scored(joined, suite="appendix")
    assert [record.view for record in records] == [None, "member1", "member2", "logit"]
    assert {record.run for record in records} == {joined}
    model = Ensemble([trained().members[0], trained(seed=1).members[0]]).eval()
    for record, part in zip(records[1:], [*model.members, model.aggregate_as("logit")], strict=True):
        assert record.path is not None
        result = evaluate(part, dataset="digits", suite="margin-doubled1280", n=N)
        column = read_samples(record.path.parent)["margin-doubled1280"].to_numpy()
        assert np.array_equal(column, result.samples["margin-doubled1280"].to_numpy())
    assert whole.forward_passes == 2
    assert evaluate(model, dataset="digits", suite=parts, n=N).record.robust == scored(joined, suite=parts)[0].robust


def test_a_state_dict_scores_as_the_checkpoint_that_it_came_from() -> None:
    model = trained()
    checkpoint.save(Path("run/best.safetensors"), model, ARCHITECTURE, {"dataset": "digits"})
    torch.save(model.members[0].get_submodule("network").state_dict(), "weights.pt")
    ours, theirs = scored("run", dataset=None) + scored("weights.pt", arch="small_cnn-0.5")
    assert ours.path is not None
    assert ours.path.parent.parent == Path("run/evaluations")
    assert (ours.model, theirs.model) == ("run/best", "weights.pt")
    assert (ours.clean, ours.robust, ours.parameters, ours.flops) == (
        theirs.clean, theirs.robust, theirs.parameters, theirs.flops,
    )  # fmt: skip


def test_defaults_come_from_what_the_parts_were_trained_for() -> None:
    for name, norm, eps in (("a", "linf", 0.1), ("b", "l2", 0.5)):
        meta = {"dataset": "digits", "threat": {"norm": norm, "eps": eps}}
        checkpoint.save(Path(name, "best.safetensors"), trained(), ARCHITECTURE, meta)
    (record,) = scored("a+own_nets:b", dataset=None)
    assert (record.dataset, record.threat.norm, record.threat.eps) == ("digits", "linf", 0.1)
    for options in ({}, {"norm": "l2"}, {"eps": 0.1}):
        with pytest.raises(InvalidValueError, match=r"a\+b: its parts .* different threats: pass --norm and --eps"):
            scored("a+b", dataset=None, **options)
    (record,) = scored("a+b", dataset=None, norm="l2", eps=0.5)
    assert (record.threat.norm, record.threat.eps) == ("l2", 0.5)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("own_nets:seven", "^own_nets:seven: tells 7 classes apart, digits has 10$"),
        ("own_nets:flat", "^own_nets:flat: on images of shape .1, 8, 8.: "),
        ("own_nets:nan", "^own_nets:nan: on images of shape .1, 8, 8.: the model gave NaN"),
        ("own_nets:fails", "^own_nets:fails: on images of shape .1, 8, 8.: RuntimeError: .*channels"),
        ("own_nets:bare", "^own_nets:bare: has no parameters"),
        ("own_nets:c", "^own_nets:c: AttributeError"),
    ],
)
def test_what_a_model_cannot_do_is_one_line_that_names_it(model: str, message: str) -> None:
    with pytest.raises(EnsembleBenchError, match=message) as raised:
        scored(model)
    assert "\n" not in str(raised.value)
    assert not Path("runs").exists()


def test_a_data_set_has_to_be_named_where_nothing_says_it() -> None:
    with pytest.raises(CheckpointError, match=r"^own_nets:a: does not say what it was trained on: pass --dataset$"):
        scored("own_nets:a", dataset=None)
    assert isinstance(load("own_nets:a"), Ensemble)  # to load it, none is needed


def test_leaderboard_report_and_console_show_models_from_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    Path("sub").mkdir()
    torch.save(trained().members[0].get_submodule("network").state_dict(), "sub/weights.pt")
    names = ["own_nets:a", "own_nets:a+own_nets:b", "sub/weights.pt"]
    records = scored(*names[:2], suite="quick+ifgsm3") + scored(names[2], suite="quick+ifgsm3", arch="small_cnn-0.5")
    scored(names[1], suite="appendix")
    show_records(records)
    shown = capsys.readouterr().out
    board = write_leaderboard(Path("runs")).read_text()
    tables = write_report(Path("runs"), Path("report"), parts=["table2", "credits"]).tables
    dissected, credits = tables
    for name in names:
        assert name in shown
        assert f",{name}," in board
        assert name in [row[0] for row in credits.text_rows()]
    assert dissected.title.endswith(names[1])
    assert [row[0] for row in dissected.text_rows()][:3] == ["Model 1", "Model 2", "Ensemble"]
    assert all("seeds" not in table.caption for table in tables)


def test_models_are_compared_by_the_names_that_they_were_scored_by() -> None:
    torch.save(trained(seed=1).members[0].get_submodule("network").state_dict(), "weights.pt")
    records = scored("own_nets:a", "own_nets:b") + scored("weights.pt", arch="small_cnn-0.5")
    for models in (["own_nets:a", "weights.pt"], [records[0], "runs/weights.pt"], [records[0], records[2].path]):
        (pair,) = compare(models).pairs
        assert {pair.left.label, pair.right.label} == {"own_nets:a", "weights.pt"}
        assert pair.images == N
        right = [read_samples(r.path.parent)["ifgsm3"].mean() for r in (records[0], records[2]) if r.path]
        assert sorted(pair.accuracies) == sorted(right)
    alone = evaluate(trained(), dataset="digits", suite="ifgsm3", n=N)
    for models, message in (
        (
            ["own_nets:a", "own_nets:c"],
            "own_nets:c does not exist, nor are there records of a model of that name under",
        ),
        (["own_nets:a", alone], "model was scored in memory alone: evaluate it with out="),
        (["own_nets:a", 3], "a model is a int: expected a run, a record or the result"),
        ("own_nets:a", "expected a list of runs"),
    ):
        with pytest.raises(InvalidValueError, match=message):
            compare(models)


def test_a_joined_ensemble_is_diagnosed_by_its_name_as_the_object_is(capsys: pytest.CaptureFixture[str]) -> None:
    choices = {"dataset": "digits", "n": N, "attack": "margin3"}
    named = diagnose("own_nets:a+own_nets:b", **choices)  # type: ignore[arg-type]
    model = Ensemble([trained().members[0], trained(seed=1).members[0]]).eval()
    given = diagnose(model, **choices)  # type: ignore[arg-type]
    assert named.model == "own_nets:a+own_nets:b"
    clean = [[f.value for f in found.findings if f.quantity == "cosine_clean"] for found in (named, given)]
    assert clean[0] == pytest.approx(clean[1], abs=1e-5)
    assert len(named.findings) == len(given.findings)
    with pytest.raises(InvalidValueError, match="own_nets:a has one member: diagnose compares members"):
        diagnose("own_nets:a", dataset="digits")
    with pytest.raises(CheckpointError, match="does not say what it was trained on: pass --dataset"):
        diagnose("own_nets:a+own_nets:b")
    assert run(["diagnose", "own_nets:a+own_nets:b", "--dataset", "digits", "--n", "4", "--attack", "margin1"]) == 0
    assert "runs/own_nets_a+own_nets_b/diagnosis/diagnosis.csv" in capsys.readouterr().out
