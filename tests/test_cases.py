"""Small inputs that went wrong once, run as they stand in ../shared/cases where that is there; each came out right.

Other tests hold the whole kind of each: models/test_answers.py (A, F, G, H), evaluation/trust/test_entry.py (C, F, L),
models/test_sources.py (D) and data/test_layouts.py (J).
"""

import contextlib
import io
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sample_bundles import META
from small_models import ARCHITECTURE, trained

import ensemble_bench as eb
from ensemble_bench.errors import AttackError, EnsembleBenchError
from ensemble_bench.models import checkpoint
from ensemble_bench.models.build import build

CASES = Path(__file__).resolve().parents[2] / "shared" / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="../shared/cases is absent")


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)


def run(name: str, *, instead: tuple[str, str] = ("", ""), names: dict[str, Any] | None = None) -> str:
    """Run the Python of a case, of a shell script that between its marks, and return what it prints."""
    text = (CASES / name).read_text()
    if name.endswith(".sh"):
        text = re.search(r"<<'P'\n(.*?)^P$", text, re.MULTILINE | re.DOTALL)[1]  # type: ignore[index]
    assert instead[0] in text
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), warnings.catch_warnings():
        exec(compile(text.replace(*instead), name, "exec"), {"__name__": "case"} if names is None else names)
    return shown.getvalue()


def single(width: float) -> None:
    """A run where the cases look for one."""
    Path("runs/single").mkdir(parents=True)
    architecture = replace(ARCHITECTURE, width=width)
    model = trained() if width == ARCHITECTURE.width else build(architecture, seed=0).eval()
    checkpoint.save(Path("runs/single/best.safetensors"), model, architecture, META)


def test_a_writes_in_place() -> None:
    shown = run("A_inplace.py")
    assert float(re.search(r"probability (\S+)", shown)[1]) < 1e-6  # type: ignore[index]
    assert "answers changed 0 of 64" in shown
    assert "caller's images changed: False" in shown


def test_c_depends_on_its_batch() -> None:
    with pytest.raises(AttackError, match=r"depends on the other images of its batch.*by "):
        run("C_batch.py")


def test_d_state_dicts() -> None:
    single(1.0)
    Path("f").mkdir()
    run("D_state_dicts.sh")
    x = torch.rand(4, 1, 8, 8)
    right = eb.load("runs/single")(x)
    for file in ("w.pt", "w.pth.tar", "swa.pt", "ema.pt", "old.pt"):
        torch.testing.assert_close(eb.load(f"f/{file}", arch="small_cnn-1", dataset="digits")(x), right)


@pytest.mark.filterwarnings("ignore")
def test_f_integer_layers() -> None:
    shown = run("F_quantised.py")
    assert re.search(r"the attack alone: \d+ broken", shown)
    assert "evaluate:" not in shown  # it failed


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "kind", ["freeze", "export", "script", "dynamic", "static", "NoGrad", "Infer", "Detach", "Numpy"]
)
def test_f_and_others_without_gradients(kind: str) -> None:
    found: dict[str, Any] = {"__name__": "case"}
    run("F_quantised_cli_models.py", instead=('import sys; sys.argv=["x"]', ""), names=found)
    model = found[kind]().eval() if kind in ("NoGrad", "Infer", "Detach", "Numpy") else found[kind]()
    assert eb.evaluate(model, dataset="digits", suite="square5", n=6).record.n == 6
    if kind in ("freeze", "export", "script"):
        eb.evaluate(model, dataset="digits", suite="ifgsm1", n=6)
    else:
        with pytest.raises(EnsembleBenchError, match="no gradient, which ifgsm1 need"):
            eb.evaluate(model, dataset="digits", suite="ifgsm1", n=6)


def test_g_outputs() -> None:
    lines = run("G_outputs.py").splitlines()
    assert [line.split()[0] for line in lines] == ["tuple", "tuple", "squeezed", "squeezed"]  # a dict is taken
    assert all("AttackError" in line and "expected" in line for line in lines)
    single(0.5)
    found: dict[str, Any] = {"__name__": "case"}
    run("G_outputs_cli_models.py", names=found)
    for name in ("tup", "squeeze", "onelogit"):
        with pytest.raises(EnsembleBenchError, match=r"expected|tells 1 classes apart"):
            eb.evaluate(found[name](), dataset="digits", suite="ifgsm1", n=5, batch_size=1)
    plain = eb.evaluate(eb.load("runs/single"), suite="ifgsm1", n=5).record.robust.robust
    for name in ("dic", "half", "bf16", "double"):
        assert abs(eb.evaluate(found[name](), dataset="digits", suite="ifgsm1", n=5).record.robust.robust - plain) <= 1


def test_h_half_precision() -> None:
    lines = run("H_half.py").splitlines()
    assert len(lines) == 3
    assert all("InvalidValueError images have dtype torch.float16" in line for line in lines)


def test_j_hidden_files() -> None:
    with pytest.warns(UserWarning, match=r"skips 2 files that are hidden or no \.png or \.jpg"):
        assert run("J_hidden_files.sh") == "20\n"


def test_l_probabilities() -> None:
    single(0.5)
    rows = [
        line.split(" ", 3)
        for line in run("L_probs.py", instead=('suite="quick", n=200', 'suite="sweep10", n=40')).splitlines()
    ]
    assert [row[:2] for row in rows] == [["1", "Logits"], ["1", "Votes"], ["30", "Logits"], ["30", "Votes"]]
    assert ["probabilities-not-logits" in row[3] for row in rows] == [False, True, False, True]
    for logits, votes in (rows[:2], rows[2:]):
        assert abs(float(logits[2]) - float(votes[2])) <= 1 / 40
