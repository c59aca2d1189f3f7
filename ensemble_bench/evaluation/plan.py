"""The plan of an evaluation: its model, images, attacks and settings, and the id that these give it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ensemble_bench import data
from ensemble_bench.attacks import Attack, get
from ensemble_bench.attacks.arc import ARC
from ensemble_bench.attacks.blackbox.blackbox_set import read_blackbox_info
from ensemble_bench.attacks.engine import Budget, Chain, GradientAttack
from ensemble_bench.data import DataSource, ImageSet
from ensemble_bench.errors import CheckpointError, InvalidValueError
from ensemble_bench.evaluation import blackbox as blackbox_sets
from ensemble_bench.evaluation.job import Carried
from ensemble_bench.evaluation.subject import Subject
from ensemble_bench.models.architecture import CheckpointInfo
from ensemble_bench.models.randomised import DRAWS, EOT_DRAWS
from ensemble_bench.models.sources import ModelSource
from ensemble_bench.progress import Progress
from ensemble_bench.records import identify
from ensemble_bench.registry import BLACKBOX, Suite, suite_of
from ensemble_bench.registry.plugins import RESERVED
from ensemble_bench.registry.terms import TEST
from ensemble_bench.threat import ThreatModel


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """One evaluation, everything resolved but the black-box set.

    Images that fell at a smaller eps are `carried` over and not attacked again. `threads` are those of a processor;
    None: as many as PyTorch is set to use, or as an evaluation that goes on began with. Adversarial images go to
    `save_images`, where that is given. `objects` are attacks that a caller made, by name; others are made by theirs.
    """

    subject: Subject
    source: DataSource
    images: ImageSet
    threat: ThreatModel
    suite: Suite
    budget: Budget
    blackbox: Path | None
    blackbox_root: Path = Path("runs") / BLACKBOX
    data_dir: str | Path | None
    carried: Carried | None = None
    threads: int | None = None
    save_images: Path | None = None
    objects: Mapping[str, Attack] = field(default_factory=dict)
    progress: Progress

    def attacks(self) -> tuple[Attack, ...]:
        """Attacks of the suite, the black-box one with its set.

        Those on a randomised model take every step: where the vote is wrong is not yet where the fewest are right.
        """
        made = tuple(map(self._attack, self.names()))
        return tuple(map(_taking_every_step, made)) if self.subject.is_randomised else made

    def _attack(self, name: str) -> Attack:
        if name in self.objects:
            return self.objects[name]
        return get(name, path=self._blackbox_set()) if name == BLACKBOX else get(name)

    def names(self) -> tuple[str, ...]:
        """Names of the attacks, in order."""
        names = self.suite.attacks if self.subject.view is None else self.suite.views
        if self.subject.is_randomised and self.suite.randomised:
            names = self.suite.randomised
        if self.suite.ensembles and not self.subject.has_members:
            names = tuple(name for name in names if name not in self.suite.ensembles)
        return (*names, *self.suite.weighted) if self.subject.is_weighted else names

    @property
    def one_in(self) -> dict[str, int]:
        """Of the attacks that meet only the nearest survivors: one in how many."""
        return {name: k for name, k in self.suite.one_in.items() if name in self.names() and k > 1}

    def key(self, made: Sequence[Attack]) -> str:
        """Id of the evaluation: a hash of all that decides its outcome."""
        identity: dict[str, Any] = {
            "weights_hash": self.subject.weights_hash,
            "data_hash": self.source.fingerprint,
            "split": self.images.split,
            "n": len(self.images),
            "threat": self.threat.as_dict(),
            "suite": self.suite.name,
            "attacks": [a.settings() for a in made],
            "seed": self.budget.seed,
            "precision": self.budget.precision,
        }
        if self.one_in:
            identity["one_in"] = {"turns": "doubling", **self.one_in}
        if self.suite.recapture:
            identity["recapture"] = True
        if self.budget.compile:
            identity["compile"] = True
        if self.subject.view is not None:
            identity["view"] = self.subject.view
        if self.subject.is_randomised:
            identity["draws"] = [EOT_DRAWS, DRAWS, "attacked while one is right"]
        if self.carried is not None:
            identity["carried"] = self.carried.settings()
        return identify(identity)

    def folder(self, key: str) -> Path | None:
        """Folder of the record, below the model's home; None for a model in memory."""
        if self.subject.home is None:
            return None
        stem = "" if self.subject.info is None else f"-{self.subject.info.path.stem}"
        view = "" if self.subject.view is None else f"-{self.subject.view}"
        # A sum of suites and attacks may hold what no file name can.
        suite = "".join(c if c.isalnum() or c in "+-" else "_" for c in self.suite.name)[:60]
        name = f"{suite}{stem}{view}-n{len(self.images)}-{self.threat.slug}-{key[:8]}"
        return self.subject.home / "evaluations" / name

    def _blackbox_set(self) -> Path:
        """The set to use: the given one, else the one of the model's preset, built where there is none."""
        preset = self.subject.meta("preset") or "tiny"
        default = blackbox_sets.default_out(self.source.name, preset, self.threat, root=self.blackbox_root)
        path = self.blackbox or default.with_name(f"{default.name}.safetensors")
        if self.blackbox is None and not (path.exists() and path.with_suffix(".json").exists()):
            if self.images.split != TEST:
                raise InvalidValueError(
                    f"split is {self.images.split!r}: black-box sets are of the test split, choose another suite"
                )
            missing = "there is none yet, and the suite attacks with it: it is made first (--no-blackbox goes without)"
            self.progress(f"black-box set {path.stem}", 1, 1, status=missing)
            path = blackbox_sets.build(
                self.source,
                preset=preset,
                data_dir=self.data_dir,
                out=path,
                eps=self.threat.eps,
                norm=self.threat.norm,
                device=self.budget.device,
                progress=self.progress,
            )
        wanted = {
            "data_hash": self.source.fingerprint,
            "split": self.images.split,
            "threat": self.threat.as_dict(),
        }
        info = read_blackbox_info(path)
        for key, value in wanted.items():
            if info.get(key) != value:
                raise InvalidValueError(
                    f"{path}: its {key} is {info.get(key)!r}, the evaluation's {value!r}: choose another --suite or set"
                )
        return path


def _taking_every_step(attack: Attack) -> Attack:
    """`attack`, of a chain every stage, without stopping early."""
    if isinstance(attack, Chain):
        return replace(attack, stages=tuple(map(_taking_every_step, attack.stages)))
    return replace(attack, stop_early=False) if isinstance(attack, GradientAttack | ARC) else attack


def chosen_suite(suite: str | Suite | Attack) -> tuple[Suite, dict[str, Attack]]:
    """The suite that `suite` names or is, or that of one attack; and the attacks that are objects, by name.

    Raises UnknownNameError as registry.suite_of, InvalidValueError for anything else, or a name that no attack can
    have.
    """
    if isinstance(suite, Attack):
        if not suite.name or suite.name in RESERVED:
            raise InvalidValueError(f"suite is an attack named {suite.name!r}: tables have such a column, rename it")
        return Suite(name=suite.name, attacks=(suite.name,), description="one attack"), {suite.name: suite}
    if isinstance(suite, Suite):
        if isinstance(suite.attacks, str) or not suite.attacks:
            raise InvalidValueError(f"suite {suite.name!r} has attacks {suite.attacks!r}: expected a tuple of names")
        for name in (*suite.attacks, *suite.weighted, *suite.randomised, *suite.views):
            if name != BLACKBOX:
                get(name)
        return suite, {}
    if not isinstance(suite, str):
        raise InvalidValueError(f"suite is a {type(suite).__name__}: expected a name, a Suite or an Attack")
    return suite_of(suite), {}


def source_of(
    model: CheckpointInfo | ModelSource,
    dataset: str | None,
    data_dir: str | Path | None,
    *,
    known: dict[str, DataSource] | None = None,
) -> DataSource:
    """Data set called `dataset`, by default that of the training; opened ones are read from `known` and added there.

    Raises CheckpointError for a model that does not say what it was trained on, InvalidValueError for images of
    another shape than a checkpoint takes.
    """
    name = dataset or model.meta.get("dataset")
    if name is None:
        raise CheckpointError(f"{_shown(model)}: does not say what it was trained on: pass --dataset")
    known = {} if known is None else known
    source = known[name] = known.get(name) or data.open_source(name, data_dir)
    info = model.info if isinstance(model, ModelSource) else model
    if info is not None and tuple(source.image_shape) != tuple(info.architecture.image_shape):
        shape = info.architecture.image_shape
        raise InvalidValueError(f"{info.path}: takes images of shape {shape}, {source.name} has {source.image_shape}")
    return source


def threat_of(
    model: CheckpointInfo | ModelSource, source: DataSource, norm: str | None, eps: float | None
) -> ThreatModel:
    """Threat model of `norm` and `eps`, by default that of the training; an eps of one norm is none of another.

    Raises InvalidValueError where norm or eps is needed and missing.
    """
    told = model.meta.get("threat", {})
    if told is None and (norm is None or eps is None):
        raise InvalidValueError(f"{_shown(model)}: its parts were trained for different threats: pass --norm and --eps")
    trained = {"norm": "linf", "eps": source.default_eps, **(told or {})}
    threat = ThreatModel(norm=norm or trained["norm"], eps=trained["eps"] if eps is None else eps)
    if eps is None and threat.norm != trained["norm"]:
        raise InvalidValueError(f"norm is {norm!r}: {_shown(model)} was trained for {trained['norm']}, so give eps")
    return threat


def _shown(model: CheckpointInfo | ModelSource) -> str:
    return model.text if isinstance(model, ModelSource) else str(model.path)
