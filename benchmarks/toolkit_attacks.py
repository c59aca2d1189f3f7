"""Every attack of torchattacks and ART on one small ensemble: what works, how robust it seems, and what it costs.

    python benchmarks/toolkit_attacks.py      (some minutes on one core; writes docs/toolkit-attacks.json)

How each attack is run, or why it is not, stands in `toolkit_cases.py`; every such claim is checked by running it.
`make pages` renders docs/toolkit-attacks.md of what it wrote down.
"""

import argparse
import contextlib
import hashlib
import importlib
import inspect
import io
import json
import random
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from toolkit_cases import CASES, EPS, EPS_L2, SIDE, Case, N, estimator
from torch import Tensor, nn
from torch.nn import functional as F

import ensemble_bench as eb
from ensemble_bench.attacks.foreign.external import External
from ensemble_bench.errors import AttackError
from ensemble_bench.files import write_atomic

ROOT = Path(__file__).resolve().parents[1]
REPORT = ROOT / "docs/toolkit-attacks.json"
WEIGHTS = ROOT / "tests/fixtures/toolkit"
MODULES = {"torchattacks": "torchattacks", "art": "art.attacks.evasion"}
PACKAGES = ("torch", "torchattacks", "adversarial-robustness-toolbox", "numpy")
STEPS = 100
HEADER = (
    "| attack | runs | robust accuracy | n | seconds | settings | remark |",
    "| :-- | :-- | --: | --: | --: | :-- | :-- |",
)
INTRODUCTION = """\
# Every attack of torchattacks and ART, on an ensemble

Written by `python benchmarks/toolkit_attacks.py`, which runs them all; a test runs them again. The model is an
ensemble of two (recipe `ensemble2adv`, digits, preset `tiny`, seed 0, {steps} steps), right on {clean_accuracy:.1%} of
the first {n} test images, with the digits enlarged to {side}x{side} colour pixels.
Seconds are those of one core; {versions}.

- *in suites*: as in `evaluate --suite "quick+torchattacks:NAME(…)"` or `art:NAME(…)`, at linf {eps} (PGDL2, PGDRSL2:
  l2 {eps_l2}).
- *alone*: as the toolkit's users call it, on `eb.adapters.torchattacks.module(model)` or
  `eb.adapters.art.classifier(model)`; the remark says why it stands in no suite.
- *no*: it cannot run; the remark says why.

Robust accuracy is the share of the n images that the attack does not break within eps; in brackets stands the accuracy
on what it returns, at any distance. Steps are few, so that all of them run in minutes: this ranks no attacks.
"""
ENLARGED = SIDE // 8


@dataclass(frozen=True, kw_only=True)
class Row:
    """What came of an attack: it runs "in suites", "alone" or, as `why` explains, not at all ("no")."""

    toolkit: str
    attack: str
    runs: str
    why: str
    settings: str
    n: int
    robust_accuracy: float | None = None
    """Share of images that it does not break within eps."""
    accuracy: float | None = None
    """Accuracy on the images that it returns, at any distance; only of attacks that run alone."""
    seconds: float | None = None


class Enlarged(nn.Module):
    """An ensemble on grey digits as one on colour images of twice their size, which some attacks need."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.model(F.avg_pool2d(x.mean(dim=1, keepdim=True), ENLARGED))


def small_ensemble() -> nn.Module:
    """ensemble2adv on the digits after STEPS steps, of fixed weights: the same on every machine."""
    return Enlarged(eb.load(WEIGHTS))


def enlarged_digits() -> tuple[Tensor, Tensor]:
    x, y = eb.data.load("digits", split="test", n=N)
    return x.repeat_interleave(ENLARGED, 2).repeat_interleave(ENLARGED, 3).repeat(1, 3, 1, 1), y


def fingerprint(model: nn.Module) -> str:
    """Of the weights: those that the page was written with may have been others."""
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()[:16]


def measure(toolkit: str, name: str, case: Case, model: nn.Module, x: Tensor, y: Tensor) -> Row:
    """Run an attack as the table says; raises whatever it raises, unless the table says that it fails like this."""
    x, y = x[: case.n], y[: case.n]
    row = {"toolkit": toolkit, "attack": name, "settings": spelled(case), "n": len(x)}
    start = time.process_time()
    try:
        with quiet():
            found = (by_itself if case.alone or case.fails else in_suite)(toolkit, name, case, model, x, y)
    except Exception as error:
        if not case.fails or case.error not in f"{type(error).__name__}: {error}":
            raise
        return Row(**row, runs="no", why=case.fails)
    seconds = time.process_time() - start
    if case.fails:
        raise AssertionError(f"{toolkit}:{name} runs, but the table says: {case.fails}")
    with torch.no_grad():
        right = model(found).argmax(dim=1) == y
    inside = torch.tensor([is_inside(case.threat, *pair) for pair in zip(found.split(1), x.split(1), strict=True)])
    accuracies = {"robust_accuracy": share(right | ~inside), "seconds": round(seconds, 2)}
    if not case.alone:
        return Row(**row, **accuracies, runs="in suites", why=case.note)
    return Row(**row, **accuracies, runs="alone", why=case.alone, accuracy=share(right))


def in_suite(toolkit: str, name: str, case: Case, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """As `evaluate --suite toolkit:name(…)` would, which checks every image."""
    attack = External(name=f"{toolkit}:{name}", toolkit=toolkit, attack=name, arguments=case.arguments)
    return attack(model, x, y, case.threat)


def by_itself(toolkit: str, name: str, case: Case, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """As the toolkit's users call it."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    attack = getattr(importlib.import_module(MODULES[toolkit]), name)
    if case.run is not None:
        found = case.run(attack, model, x.clone(), y, **case.arguments)
    elif toolkit == "torchattacks":
        found = attack(eb.adapters.torchattacks.module(model), **case.arguments)(x.clone(), y)
    else:
        silent = {"verbose": False} if "verbose" in inspect.signature(attack).parameters else {}
        found = attack(estimator(model, x), **silent, **case.arguments).generate(x.numpy().copy(), y.numpy())
    return torch.as_tensor(found).to(x)


def is_inside(threat: eb.ThreatModel, x_adv: Tensor, x: Tensor) -> bool:
    try:
        threat.check(x_adv, x)
    except AttackError:
        return False
    return True


def share(images: Tensor) -> float:
    return round(images.double().mean().item(), 4)


def spelled(case: Case) -> str:
    """Settings, where they are not the toolkit's own."""
    shown = {name: value for name, value in case.arguments.items() if isinstance(value, int | float | str | tuple)}
    return ", ".join(f"{name}={value}" for name, value in shown.items())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the toolkits' progress bars, prints and warnings."""
    nowhere = io.StringIO()
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def page() -> str:
    """docs/toolkit-attacks.md, of what `main` wrote down."""
    report: Mapping[str, Any] = json.loads(REPORT.read_text(encoding="utf-8"))
    rows = [Row(**row) for row in report["rows"]]
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    lines = [INTRODUCTION.format(**{**report, "versions": versions})]
    for toolkit in CASES:
        of_it = [row for row in rows if row.toolkit == toolkit]
        counts = Counter(row.runs for row in of_it)
        said = f"{counts['in suites']} in suites, {counts['alone']} alone, {counts['no']} not at all"
        lines += [f"## {toolkit}: {len(of_it)} attacks, {said}", "", *HEADER]
        lines += [f"| {' | '.join(cells(row))} |" for row in of_it]
        lines.append("")
    return "\n".join(lines)


def cells(row: Row) -> list[str]:
    if row.runs == "no":
        return [row.attack, row.runs, "", "", "", "", row.why]
    anywhere = "" if row.accuracy is None else f" ({row.accuracy:.3f})"
    accuracy = f"{row.robust_accuracy:.3f}{anywhere}"
    return [row.attack, row.runs, accuracy, str(row.n), f"{row.seconds:.1f}", row.settings, row.why]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=REPORT, help="file to write to")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, (x, y) = small_ensemble(), enlarged_digits()
    rows = []
    for toolkit, cases in CASES.items():
        for name, case in cases.items():
            rows.append(measure(toolkit, name, case, model, x, y))
            print(" | ".join([toolkit, *cells(rows[-1])]), flush=True)
    with torch.no_grad():
        clean = share(model(x).argmax(dim=1) == y)
    report = {
        "versions": {name: version(name) for name in PACKAGES},
        "steps": STEPS,
        "weights": fingerprint(model),
        "clean_accuracy": clean,
        "n": N,
        "side": SIDE,
        "eps": EPS,
        "eps_l2": EPS_L2,
        "rows": [asdict(row) for row in rows],
    }
    write_atomic(options.out, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
