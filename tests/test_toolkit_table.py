"""docs/toolkit-attacks.md: every attack of torchattacks and ART is in it, and does what its row says."""

import importlib
import importlib.util
import inspect
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchattacks
from scipy.stats import binom
from torch import Tensor, nn

from ensemble_bench.errors import EnsembleBenchError

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import toolkit_attacks as table  # noqa: E402
from toolkit_cases import CASES, Case  # noqa: E402

REPORT = json.loads(table.REPORT.read_text())
ROWS = {(row["toolkit"], row["attack"]): table.Row(**row) for row in REPORT["rows"]}
EACH = [(toolkit, name) for toolkit, cases in CASES.items() for name in cases]
QUICK = 0.5  # seconds, up to which an attack runs again on all its images; others on one

Setup = tuple[nn.Module, Tensor, Tensor]


@pytest.fixture(scope="module")
def setup() -> Setup:
    return table.small_ensemble(), *table.enlarged_digits()


def class_of(toolkit: str, name: str) -> Any:
    return getattr(importlib.import_module(table.MODULES[toolkit]), name)


def test_every_attack_of_the_installed_toolkits_has_its_row() -> None:
    from art.attacks import EvasionAttack, evasion

    of_art = {n for n, c in vars(evasion).items() if inspect.isclass(c) and issubclass(c, EvasionAttack)}
    assert {name for toolkit, name in ROWS if toolkit == "torchattacks"} == set(torchattacks.__all__)
    assert {name for toolkit, name in ROWS if toolkit == "art"} == of_art | {"BrendelBethgeAttack"}  # there with numba
    assert ROWS.keys() == set(EACH)


@pytest.mark.parametrize(("toolkit", "name"), EACH)
def test_attack_does_what_its_row_says(toolkit: str, name: str, setup: Setup) -> None:
    case, documented, (model, x, y) = CASES[toolkit][name], ROWS[toolkit, name], setup
    if case.package and importlib.util.find_spec(case.package):
        pytest.skip(f"{case.package} is here, and the page was written without it")
    n = documented.n if (documented.seconds or 0) <= QUICK else 1
    found = table.measure(toolkit, name, case, model, x[:n], y[:n])
    assert (found.runs, found.why, found.settings) == (documented.runs, documented.why, documented.settings)
    if documented.robust_accuracy is None or n < documented.n:
        return
    assert table.fingerprint(model) == REPORT["weights"]
    # Rounding may tip images that lie close to a boundary, which a path of sign steps leads others to: taken for one
    # image in twenty, more than so many of n are tipped in one test of a million.
    tipped = binom.isf(1e-6, n, 0.05)
    assert abs(found.robust_accuracy - documented.robust_accuracy) * n <= tipped


@pytest.mark.parametrize(("toolkit", "name"), [key for key in EACH if CASES[key[0]][key[1]].alone])
def test_what_runs_alone_has_no_eps_or_is_refused_in_suites(toolkit: str, name: str, setup: Setup) -> None:
    case, (model, x, y) = CASES[toolkit][name], setup
    has_eps = bool({"eps", "max_epsilon"} & inspect.signature(class_of(toolkit, name)).parameters.keys())
    assert not (has_eps and "no eps" in case.alone)
    if has_eps:
        with pytest.raises(EnsembleBenchError), table.quiet():
            table.in_suite(toolkit, name, Case(arguments=case.arguments), model, x[:2], y[:2])


def test_a_claim_that_does_not_hold_is_an_error(setup: Setup) -> None:
    model, x, y = setup
    with pytest.raises(AssertionError, match="torchattacks:FGSM runs, but the table says: cannot"):
        table.measure("torchattacks", "FGSM", Case(fails="cannot"), model, x[:2], y[:2])
    with pytest.raises(Exception, match="leaves the linf ball"):
        table.measure("torchattacks", "GN", Case(arguments={"std": 0.5}), model, x[:2], y[:2])
    with pytest.raises(ModuleNotFoundError):
        table.measure("art", "AutoAttack", Case(fails="cannot", error="another"), model, x[:2], y[:2])


def test_enlarged_digits_are_the_digits_to_the_ensemble(setup: Setup) -> None:
    model, x, _ = setup
    digits, _ = table.eb.data.load("digits", split="test", n=len(x))
    with torch.no_grad():
        torch.testing.assert_close(model(x), model.model(digits))
