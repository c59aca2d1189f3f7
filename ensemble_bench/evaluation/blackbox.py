"""Build a black-box set: attack two networks of standard training, keep what fools both (the paper's section 4.3)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ensemble_bench import attacks, data
from ensemble_bench.attacks.blackbox.blackbox_set import load_blackbox, read_blackbox_info, save_blackbox
from ensemble_bench.attacks.engine import Budget
from ensemble_bench.data import DataSource, ImageSet
from ensemble_bench.errors import CheckpointError, DataError, InvalidValueError, check_whole
from ensemble_bench.evaluation.pace import seconds_a_pass
from ensemble_bench.files import clear_leftovers
from ensemble_bench.kinds import takes
from ensemble_bench.locks import LOCK, held
from ensemble_bench.models import checkpoint
from ensemble_bench.models.build import build as build_model
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.progress import Progress, duration, silent
from ensemble_bench.registry.terms import TEST
from ensemble_bench.threat import ThreatModel
from ensemble_bench.training.algorithm1 import algorithm1
from ensemble_bench.training.batches import batches_of
from ensemble_bench.training.hardware import resolve_device, resolve_precision
from ensemble_bench.training.objectives import objective_of
from ensemble_bench.training.optimizer import sgd
from ensemble_bench.training.plan import architecture_of, differences
from ensemble_bench.training.presets import Network, TrainingSettings, preset_of
from ensemble_bench.training.provenance import commit, versions
from ensemble_bench.training.schedule import cyclic
from ensemble_bench.training.state import TrainingState
from ensemble_bench.training.validation import predict

SUFFIX = ".safetensors"
ATTACK = "pgd20"
# Surrogates start elsewhere, and see the images in another order, than any model under test of the same seed:
# otherwise a baseline of the same network would nearly be its own surrogate.
FIRST_SEED = 1_000_000
# Half the peak rate of short Wide ResNet runs, which deep plain networks such as VGG do not survive.
LEARNING_RATE = 0.1
# Images attacked between two reports of progress.
CHUNK = 1000


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What building a set will take: training steps of every surrogate, passes of the attack, and seconds in all."""

    surrogates: tuple[Network, ...]
    steps: tuple[int, ...]
    images: int
    passes: int
    seconds: float

    def __str__(self) -> str:
        trained = " and ".join(
            f"{_called(network)} ({f'{steps:,} steps' if steps else 'trained before'})"
            for network, steps in zip(self.surrogates, self.steps, strict=True)
        )
        attacked = f"{self.images:,} test images attacked with {ATTACK}"
        return f"surrogates {trained}, then {attacked}: about {duration(self.seconds)}"


def default_out(
    data_name: str, preset: str, threat: ThreatModel, *, seed: int = 0, root: Path = Path("runs") / "blackbox"
) -> Path:
    """Where a set goes unless told otherwise, such as runs/blackbox/digits-tiny-linf32of255-s0 (files add a suffix)."""
    return root / f"{data_name}-{preset}-{threat.slug}-s{seed}"


def surrogate_folder(path: Path) -> Path:
    """Where the surrogates of the set at `path` lie, as checkpoints."""
    return path.with_name(f"{path.name.removesuffix(SUFFIX)}-surrogates")


@takes
def build(
    dataset: str | DataSource = "digits",
    *,
    preset: str = "tiny",
    seed: int = 0,
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
    norm: str = "linf",
    eps: float | None = None,
    n: int | None = None,
    device: str | torch.device | None = None,
    progress: Progress = silent,
) -> Path:
    """Make the black-box set of the first `n` test images (default: all) and return its .safetensors file.

    Two surrogates (the preset's Wide ResNet and VGG16; smaller networks on digits) get standard training;
    Adam-PGD20, taking every step, attacks the mean of their logits within `eps` (default for linf: the data set's);
    kept are the images that both misclassify (Liu et al. 2017). `out` is the file's path, with or without
    .safetensors. A set that exists, whole, is returned at once, and surrogates that exist are not trained again.
    Raises InvalidValueError for a choice that is not one, or an `out` that holds another set.
    """
    settings = preset_of(preset)
    check_whole("seed", seed)
    target = resolve_device(device)
    source = dataset if isinstance(dataset, DataSource) else data.open_source(dataset, data_dir)
    if eps is None and norm != "linf":
        raise InvalidValueError(f"norm is {norm!r}: the data set's own eps is for linf, so give eps")
    threat = ThreatModel(norm=norm, eps=source.default_eps if eps is None else eps)
    test = source.split(TEST)
    test = test if n is None else test.first(n)
    base = Path(out) if out is not None else default_out(source.name, preset, threat, seed=seed)
    path = base.with_name(f"{base.name.removesuffix(SUFFIX)}{SUFFIX}")
    wanted = {
        "dataset": source.dataset,
        "data_name": source.name,
        "data_hash": source.fingerprint,
        "split": TEST,
        "considered": len(test),
        "threat": threat.as_dict(),
        "preset": preset,
        "seed": seed,
    }
    label = f"black-box images {path.stem}"
    if _exists(path, wanted, progress):
        progress(label, len(test), len(test), status="built before")
        return path
    chosen = settings.on(source.trains_like or source.dataset)
    try:
        source.split("train")
    except DataError as error:
        raise InvalidValueError(f"the black-box attack trains networks, but {error}: choose another suite") from error

    def waiting() -> None:
        progress(label, 0, len(test), status="another process builds it: waiting for that")

    # Evaluations that run beside each other may want the same set: it is built once.
    with held(path.parent, "blackbox build", name=f".{path.stem}{LOCK}", wait=math.inf, waiting=waiting):
        if _exists(path, wanted, progress):
            progress(label, len(test), len(test), status="built meanwhile")
        else:
            _build(path, chosen, source, test, threat, wanted, target, progress)
    return path


def _build(
    path: Path,
    chosen: TrainingSettings,
    source: DataSource,
    test: ImageSet,
    threat: ThreatModel,
    wanted: Mapping[str, Any],
    target: torch.device,
    progress: Progress,
) -> None:
    """Make the set, in a folder that is locked."""
    clear_leftovers(surrogate_folder(path))
    if progress is not silent:  # measuring takes a second, which nobody would see the use of
        there = [file.with_suffix(".json").exists() for file in _files(path, chosen)]
        cost = expected(source, chosen, images=len(test), device=target, trained=there)
        progress(f"black-box set {path.stem}", 1, 1, status=str(cost))
    surrogates = _surrogates(path, chosen, source, wanted, target, progress)
    _attack_and_save(path, surrogates, test, threat, wanted, device=target, progress=progress)


def expected(
    source: DataSource,
    settings: TrainingSettings,
    *,
    images: int,
    device: torch.device,
    trained: Sequence[bool] = (False, False),
) -> Expected:
    """What a set of so many test images will take on this machine, from a few passes of each surrogate's network.

    Surrogates that are `trained` take no step.
    """
    budget = Budget.on(device, seed=0, batch_size=None)
    batch = settings.batch_size
    whole = round(settings.surrogate_epochs * (len(source.split("train")) // batch))
    steps = tuple(0 if there else whole for there in trained)
    paces = []
    for network in settings.surrogates:
        architecture = architecture_of(network, source)
        model = build_model(architecture, seed=0).to(device).eval()
        shape, classes = architecture.image_shape, architecture.classes
        paces.append(seconds_a_pass(model, shape, budget, classes=classes, images=images))
    # A training step goes forward, and backward to weights and activations; pgd20 takes 20 times forward and backward.
    passes = 42 * images
    seconds = sum((3 * n * batch + passes) * pace for n, pace in zip(steps, paces, strict=True))
    return Expected(surrogates=settings.surrogates, steps=steps, images=images, passes=passes, seconds=seconds)


def _called(network: Network) -> str:
    """Such as wrn-28-10."""
    parts = (network.backbone, network.depth, f"{network.width:g}")
    return "-".join(str(part) for part in parts if part is not None)


def _files(path: Path, settings: TrainingSettings) -> list[Path]:
    """The surrogates' checkpoints of the set at `path`."""
    return [surrogate_folder(path) / f"{i}-{n.backbone}{SUFFIX}" for i, n in enumerate(settings.surrogates)]


def _exists(path: Path, wanted: Mapping[str, Any], progress: Progress) -> bool:
    """Whether the wanted set lies at `path`, whole; raises InvalidValueError if another one does."""
    if not path.exists() or not path.with_suffix(".json").exists():
        return False
    try:
        found = read_blackbox_info(path)
        # What the data are says their hash; they may have been moved.
        if different := differences({k: v for k, v in wanted.items() if k != "dataset"}, found):
            raise InvalidValueError(f"{path} is another black-box set ({different[0]}): choose another --out")
        load_blackbox(path)
    except DataError as error:
        progress(f"black-box images {path.stem}", 0, 1, status=f"built again: {error}")
        return False
    return True


def _surrogates(
    path: Path,
    settings: TrainingSettings,
    source: DataSource,
    wanted: Mapping[str, Any],
    device: torch.device,
    progress: Progress,
) -> list[Ensemble]:
    """Both surrogates, read where they exist and trained where they do not."""
    found = []
    for index, (network, file) in enumerate(zip(settings.surrogates, _files(path, settings), strict=True)):
        identity = {key: wanted[key] for key in ("data_hash", "preset", "seed")} | {"network": asdict(network)}
        try:
            info = checkpoint.read_info(file)
            if different := differences(identity, info.meta):
                raise InvalidValueError(f"{file} is another surrogate ({different[0]}): choose another --out")
            model = checkpoint.load(file)
        except CheckpointError as error:
            if file.exists():
                progress(f"train surrogate {file.stem}", 0, 1, status=f"trained again: {error}")
            _train_surrogate(file, index, settings, source, identity, device, progress)
            model = checkpoint.load(file)
        found.append(model.to(device))
    return found


def _train_surrogate(
    file: Path,
    index: int,
    settings: TrainingSettings,
    source: DataSource,
    identity: Mapping[str, Any],
    device: torch.device,
    progress: Progress,
) -> None:
    """Standard training of one network, with a cyclic rate whatever the preset's schedule for adversarial training."""
    seed = FIRST_SEED + len(settings.surrogates) * int(identity["seed"]) + index
    architecture = architecture_of(settings.surrogates[index], source)
    model = build_model(architecture, seed=seed).to(device).train()
    batches, optimizer = batches_of(source, settings, seed, device), sgd(model, settings)
    precision = resolve_precision(settings.precision, device)
    steps = round(settings.surrogate_epochs * batches.per_epoch)
    for step in algorithm1(
        model,
        optimizer,
        TrainingState(),
        steps=steps,
        sample=batches.at,
        attack=None,
        objective=objective_of("ensemble"),
        rate=lambda t: LEARNING_RATE * cyclic(t, steps),
        precision=precision,
    ):
        progress(f"train surrogate {file.stem}", step, steps)
    meta = {**identity, "role": "surrogate", "step": steps, "precision": precision}
    checkpoint.save(file, model, architecture, meta | {"versions": versions(), "commit": commit()})


def _attack_and_save(
    path: Path,
    surrogates: list[Ensemble],
    test: ImageSet,
    threat: ThreatModel,
    wanted: Mapping[str, Any],
    *,
    device: torch.device,
    progress: Progress,
) -> None:
    """Attack the mean of the surrogates' logits on all images, and write those that fool every surrogate."""
    attack = attacks.get(ATTACK, stop_early=False)
    mean_logits = Ensemble((member for model in surrogates for member in model.members), aggregation="logit")
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    correct = [0] * len(surrogates)
    for first in range(0, len(test), CHUNK):
        rows = slice(first, first + CHUNK)
        x, y = (tensor.to(device) for tensor in test.batch(rows))
        x_adv = attack(mean_logits, x, y, threat, seed=int(wanted["seed"]), ids=test.ids[rows])
        fooled = torch.stack([predict(model, x_adv) != y for model in surrogates]).all(dim=0)
        correct = [c + int((predict(model, x) == y).sum()) for c, model in zip(correct, surrogates, strict=True)]
        kept.append((test.ids[rows][fooled.cpu()], x_adv[fooled].cpu(), y[fooled].cpu()))
        progress(f"black-box images {path.stem}", min(first + CHUNK, len(test)), len(test))
    ids, adversarial, labels = (torch.cat(column) for column in zip(*kept, strict=True))
    ascending = ids.argsort()
    info = {
        **wanted,
        "keep_rate": len(ids) / len(test),
        "surrogates": [_describe(model, c / len(test)) for model, c in zip(surrogates, correct, strict=True)],
        "attack": attack.settings(),
        "versions": versions(),
        "commit": commit(),
    }
    save_blackbox(path, ids=ids[ascending], x_adv=adversarial[ascending], labels=labels[ascending], info=info)


def _describe(model: Ensemble, accuracy: float) -> dict[str, Any]:
    """What the set's JSON says of a surrogate; the accuracy is on the clean images considered."""
    info = model.info
    assert info is not None  # it comes from a checkpoint
    return {
        "backbone": info.architecture.backbone,
        "depth": info.architecture.depth,
        "width": info.architecture.width,
        "accuracy": accuracy,
        "weights_hash": info.weights_hash,
    }
