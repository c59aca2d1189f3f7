"""How a verifier evaluates: a claim again, or a model by the rules of its board."""

from dataclasses import dataclass
from pathlib import Path

import torch

from ensemble_bench.attacks.engine import Budget
from ensemble_bench.data import DataSource
from ensemble_bench.errors import DataError, RecordError
from ensemble_bench.evaluation import blackbox
from ensemble_bench.evaluation.runner import evaluate_checkpoints
from ensemble_bench.leaderboard.rules import PRECISION, Rules, rules_file, rules_of
from ensemble_bench.models import checkpoint
from ensemble_bench.progress import Progress
from ensemble_bench.records import Record
from ensemble_bench.registry import BLACKBOX, suite_of
from ensemble_bench.registry.terms import TEST
from ensemble_bench.submissions.price import batch_in
from ensemble_bench.threat import ThreatModel


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where and on what a verifier evaluates; black-box sets are those of the operator's preset `blackbox`.

    `memory` is what an attack may take of the processor's, in bytes; on a GPU the engine finds its batch by itself.
    """

    runs: Path
    data_dir: str | Path | None
    device: torch.device
    progress: Progress
    blackbox: str = Rules().blackbox
    memory: int | None = None

    def batch_size(self, model: Path) -> int | None:
        """Images in a batch that fit into `memory` bytes; None, as many as usual, where that is not bounded.

        Raises BundleError where not one does.
        """
        if self.memory is None:
            return None
        usual = Budget.on(self.device, seed=0, batch_size=None).batch_size
        return batch_in(self.memory, checkpoint.read_info(model).architecture, most=usual)

    def blackbox_set(self, suite: str, threat: ThreatModel, source: DataSource) -> Path | None:
        """The set for a suite under a threat, None where the suite has no use for one.

        It is of the operator's preset: what preset a stranger names for a model decides nothing.
        """
        if BLACKBOX not in suite_of(suite).attacks:
            return None
        base = blackbox.default_out(source.name, self.blackbox, threat, root=self.runs / BLACKBOX)
        path = base.with_name(f"{base.name}{blackbox.SUFFIX}")
        if path.exists():
            return path
        return blackbox.build(
            source.dataset,
            preset=self.blackbox,
            out=path,
            data_dir=self.data_dir,
            norm=threat.norm,
            eps=threat.eps,
            device=self.device,
            progress=self.progress,
        )


@dataclass(frozen=True, kw_only=True)
class Asked:
    """An evaluation on the first `n` test images."""

    suite: str
    n: int
    seed: int
    precision: str = PRECISION


def asked_by(rules: Rules, source: DataSource) -> Asked:
    """The evaluation that ranks a model on a board with these rules."""
    return Asked(suite=rules.suite, n=rules.n or len(source.split(TEST)), seed=rules.seed)


def rules_on(board: Path, source: DataSource) -> Rules:
    """The rules of a board; DataError where they cannot be followed: that is no fault of a model."""
    try:
        rules = rules_of(board)
    except RecordError as error:
        raise DataError(str(error)) from None
    if rules.n is not None and rules.n > (most := len(source.split(TEST))):
        raise DataError(f"{rules_file(board)}: n is {rules.n}, the {TEST} split of {source.name} holds {most}")
    return rules


def evaluated(model: Path, asked: Asked, threat: ThreatModel, source: DataSource, bench: Bench) -> list[Record]:
    """Our records of a checkpoint, and of the parts that the suite scores on their own; they lie beside it."""
    return evaluate_checkpoints(
        [model],
        runs=bench.runs,
        suite=asked.suite,
        dataset=source.dataset,
        data_dir=bench.data_dir,
        n=asked.n,
        seed=asked.seed,
        norm=threat.norm,
        eps=threat.eps,
        batch_size=bench.batch_size(model),
        blackbox=bench.blackbox_set(asked.suite, threat, source),
        precision=asked.precision,
        device=bench.device,
        progress=bench.progress,
    )
