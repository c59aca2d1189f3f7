"""How attacks search: what the record says of it, and what the device decides."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from small_models import trained

from ensemble_bench.evaluation.request import Request
from ensemble_bench.evaluation.runner import evaluate
from ensemble_bench.experiment.evaluations import decided
from ensemble_bench.records import Record, Search
from ensemble_bench.training.hardware import resolve_precision


def test_the_record_says_how_attacks_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    model = trained(members=2)
    plain, searched = (
        evaluate(model, suite="ifgsm2", n=8, precision=precision, compile=compile).record
        for precision, compile in (("float32", None), ("bf16", True))
    )
    assert plain.search == Search(precision="float32", folded=True, compiled=False)
    assert searched.search == Search(precision="bf16", folded=True, compiled=True)
    assert plain.id == evaluate(model, suite="ifgsm2", n=8, precision="float32", compile=False).record.id
    assert searched.id != evaluate(model, suite="ifgsm2", n=8, precision="bf16", compile=False).record.id
    assert Record.from_dict(searched.as_dict()) == searched
    assert "search" not in replace(plain, search=None).as_dict()


@pytest.mark.parametrize("native", [False, True])
def test_the_search_is_bf16_where_that_is_native(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native, raising=False)
    search = evaluate(trained(), suite="ifgsm1", n=4).record.search
    assert search is not None
    assert search.precision == ("bf16" if native else "float32")


def test_what_cannot_be_compiled_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no compiler found")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=broken))
    told: list[str] = []
    record = evaluate(
        trained(),
        suite="ifgsm1",
        n=4,
        compile=True,
        progress=lambda label, done, total, **fields: told.append(str(fields.get("status", ""))),
    ).record
    assert record.search is not None
    assert not record.search.compiled
    assert "no compiler found" in record.search.note
    assert record.search.note in told


def test_nodes_of_a_cluster_decide_nothing() -> None:
    assert decided(Request(), ray="auto") == Request(precision="float32", compile=False)
    told = Request(precision="bf16", compile=True)
    assert decided(told, ray="auto") == told


@pytest.mark.parametrize("ray", [None, "local"])
def test_this_machine_decides_as_it_would_for_each_evaluation(ray: str | None) -> None:
    here = decided(Request(device="cpu"), ray=ray)
    assert here == Request(device="cpu", precision=resolve_precision("auto", torch.device("cpu")), compile=False)
    told = Request(device="cpu", precision="bf16", compile=True)
    assert decided(told, ray=ray) == told
