"""The probe: a few short attacks that no score counts, which a model with masked gradients fails and others do not."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from ensemble_bench import attacks
from ensemble_bench.evaluation.job import Job, attempt
from ensemble_bench.evaluation.journal import Entry, Journal, has
from ensemble_bench.evaluation.scoring import Scores
from ensemble_bench.evaluation.triage import reach_of_grey
from ensemble_bench.evaluation.trust.conduct import gradient_free, is_white_box
from ensemble_bench.threat import ThreatModel

# Enough to tell 2 % from none, at a cost that no suite feels.
IMAGES = 128
PLAIN = ("margin20",)
# Either loss of AutoAttack alone is weaker than the margin on some honest models too.
AUTOATTACK = ("apgd20", "apgd-dlr20")
SINGLE_STEP = ("ifgsm1",)
LARGE = ("margin50",)


@dataclass(frozen=True, kw_only=True)
class Tried:
    """Attacks, joined by "+", and which images they left standing."""

    attack: str
    standing: tuple[bool, ...]

    @property
    def left(self) -> int:
        """How many images stand."""
        return sum(self.standing)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What four tests found on the same images, of which the `large` one, at `eps`, may leave nothing standing.

    `blind` says what an attack that follows gradients left standing of the images that the attack of that name, which
    follows none, broke before any other had a try. `passes` counts images pushed through the model, forward or
    backward.
    """

    plain: Tried
    autoattack: Tried
    single_step: Tried
    large: Tried
    norm: str
    eps: float
    blind: Mapping[str, Tried]
    passes: int


@dataclass(frozen=True, kw_only=True)
class _Test:
    """Attacks that meet the images `rows`, each what those before it left standing."""

    names: tuple[str, ...]
    rows: NDArray[np.intp]
    threat: ThreatModel


def probe(job: Job, scores: Scores, journal: Journal) -> Probe:
    """Test the model of `job`, which got these `scores`; what the journal holds already is not run again.

    The first correctly classified images, at most 128, meet margin20, apgd20 with apgd-dlr20, ifgsm1, and margin50
    within reach of grey: at most 237 passes an image. What an attack without gradients broke first in a cascade, again
    at most 128, meets margin20, apgd20 and apgd-dlr20: at most 129. Raises AttackError, naming the probe, for logits
    or gradients that are not finite.
    """
    blind = list(_blind(job))
    tests = list(_tests(job, scores, blind))
    entry = journal.get("probe", 0, partial(_is_of, tests=tests)) or journal.put("probe", 0, _run(job, tests))
    plain, autoattack, single_step, large, *others = (
        Tried(attack="+".join(test.names), standing=tuple(standing))
        for test, standing in zip(tests, entry["standing"], strict=True)
    )
    return Probe(
        plain=plain,
        autoattack=autoattack,
        single_step=single_step,
        large=large,
        norm=job.threat.norm,
        eps=reach_of_grey(job).eps,
        blind=dict(zip(blind, others, strict=True)),
        passes=entry["passes"],
    )


def _is_of(entry: Entry, *, tests: Sequence[_Test]) -> bool:
    """Whether an entry tells which images each of the tests left standing."""
    standing = entry.get("standing")
    if not isinstance(standing, list) or len(standing) != len(tests) or not has(entry, counts=("passes",)):
        return False
    return all(
        has({"of": one}, lists={"of": (bool, len(test.rows))}) for one, test in zip(standing, tests, strict=True)
    )


def _blind(job: Job) -> Iterator[str]:
    """Attacks without gradients that a cascade starts with: their credit does not say what others would have missed."""
    for attack in job.attacks if job.cascade else ():
        if is_white_box(attack.name, attack.settings()):
            return
        if gradient_free(attack.name, attack.settings()):
            yield attack.name


def _tests(job: Job, scores: Scores, blind: Sequence[str]) -> Iterator[_Test]:
    correct = np.flatnonzero(scores.samples["clean"])[:IMAGES]
    for names in (PLAIN, AUTOATTACK, SINGLE_STEP):
        yield _Test(names=names, rows=correct, threat=job.threat)
    yield _Test(names=LARGE, rows=correct, threat=reach_of_grey(job))
    for name in blind:
        fallen = np.flatnonzero(scores.samples["broken_by"] == name)[:IMAGES]
        # One loss alone misses some of these on honest models of standard training.
        yield _Test(names=(*PLAIN, *AUTOATTACK), rows=fallen, threat=job.threat)


def _run(job: Job, tests: Sequence[_Test]) -> Entry:
    """Which images every test leaves standing, and the passes of all."""
    total = sum(len(test.names) * len(test.rows) for test in tests)
    done = passes = 0

    def on_done(count: int, broken: int) -> None:
        job.progress(f"{job.label} probe", min(done + count, total - 1), total)

    results = []
    for test in tests:
        rows = torch.from_numpy(test.rows)
        x, y = job.images.batch(rows)
        x, y, ids = x.to(job.budget.device), y.to(job.budget.device), job.images.ids[rows]
        standing = torch.ones(len(ids), dtype=torch.bool)
        for name in test.names:
            left = standing.nonzero()[:, 0]
            attack = replace(attacks.get(name), name=f"probe/{name}")
            outcome = attempt(replace(job, threat=test.threat), attack, x, y, ids, left, on_done)
            standing[left] = ~outcome.broken.cpu()
            passes, done = passes + outcome.passes, done + len(ids)
        results.append(standing.tolist())
    if total:
        job.progress(f"{job.label} probe", total, total)
    return {"standing": results, "passes": passes}
