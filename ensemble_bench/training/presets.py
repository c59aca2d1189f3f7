"""Presets: how large the networks are and how long they train, each value explained; no torch here."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ensemble_bench import registry
from ensemble_bench.errors import InvalidValueError


@dataclass(frozen=True, kw_only=True)
class Network:
    """A backbone and its size: `depth` only where the backbone has one; `width` multiplies its channels."""

    backbone: str
    depth: int | None = None
    width: float = 1.0


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Settings of training on one data set, besides the recipe, the seed and the threat.

    Exactly one of `steps` and `epochs` is given. `schedule` is "staircase" (the paper's: × 0.2 after 6, 12 and
    18 % of the steps) or "cyclic" (linear up to `learning_rate`, then linear down to 0). `train_attack` is
    "ifgsmN" or "nfgsm", `attack_start` "gaussian", "uniform" or "none". `crop` is the padding of random crops in
    pixels (0: none). `clean_share` is the weight of the loss on clean images, in [0, 1]; that on attacked ones has
    the rest. `saved_as` is "float32" or "float16", to which the weights in checkpoints are rounded. `average` is the
    memory of the running average of the weights as a share of all steps: above 0, a run ends with the checkpoints
    averaged and last; at 0 with best, picked by validation accuracy, and last. `precision` is "float32", "bf16" or
    "auto" (bf16 where the hardware computes in it natively). Every `evaluate_every` steps the first `evaluate_n`
    validation images are evaluated; a killed run loses at most `checkpoint_every` steps.
    """

    network: Network
    surrogates: tuple[Network, Network]
    surrogate_epochs: float
    learning_rate: float
    schedule: str
    train_attack: str
    attack_start: str
    evaluate_every: int
    evaluate_n: int
    checkpoint_every: int
    steps: int | None = None
    epochs: float | None = None
    batch_size: int = 128
    momentum: float = 0.9
    # On all parameters, batch norm included, as in plain SGD and Wide ResNets' own training.
    weight_decay: float = 5e-4
    flip: bool = False
    crop: int = 0
    # Eq. 4 with ρ = 1.
    clean_share: float = 0.5
    average: float = 0.0
    saved_as: str = "float32"
    precision: str = "float32"

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise InvalidValueError("settings give the length of training either in steps or in epochs")

    def as_dict(self) -> dict[str, Any]:
        """All values that the training of a recipe depends on, which leaves out the surrogates, as values of JSON."""
        return {name: value for name, value in asdict(self).items() if not name.startswith("surrogate")}


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Settings for every data set, by its name in the registry.

    `tuned` holds what was chosen for a recipe on validation images, by data set and recipe (docs/tuning.md).
    """

    name: str
    description: str
    settings: Mapping[str, TrainingSettings]
    tuned: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)

    def on(self, dataset: str, recipe: str | None = None) -> TrainingSettings:
        """Settings for a data set, tuned for a recipe; raises InvalidValueError where there are none for the data."""
        if dataset not in self.settings:
            raise InvalidValueError(
                f"preset {self.name!r} has no settings for {dataset!r}: it has {', '.join(self.settings)}, "
                "of which its DataSource may name one as trains_like"
            )
        return replace(self.settings[dataset], **self.tuned.get(dataset, {}).get(recipe or "", {}))


# CIFAR-10, as the paper trains: section 4.2 and, where it is silent, Zagoruyko & Komodakis (2016), whom it follows.
_CIFAR_PAPER = TrainingSettings(
    network=Network(backbone="wrn", depth=28, width=10),
    surrogates=(Network(backbone="wrn", depth=28, width=10), Network(backbone="vgg16_bn")),
    surrogate_epochs=200,
    steps=500_000,
    learning_rate=0.1,
    schedule="staircase",
    train_attack="ifgsm7",
    attack_start="gaussian",
    flip=True,
    crop=4,
    # Table 1b's pick, the step of the highest ifgsm5, needs the whole validation split: on 1,000 images it would be the
    # luckiest of many. 200 evaluations add 7 % to the training.
    evaluate_every=2500,
    evaluate_n=5000,
    checkpoint_every=500,
)
# N-FGSM (de Jorge et al. 2022) needs one gradient for its attack instead of seven and does not overfit to it
# catastrophically; 30 epochs of a cyclic rate are that paper's schedule (and Rice et al. 2020: longer overfits).
_CIFAR_MODERN = replace(
    _CIFAR_PAPER,
    surrogate_epochs=30,
    steps=None,
    epochs=30,
    schedule="cyclic",
    train_attack="nfgsm",
    attack_start="uniform",
    precision="bf16",
    evaluate_every=350,  # an epoch is 351 steps
    evaluate_n=1000,
    checkpoint_every=350,
    average=0.02,
)
_CIFAR_SMALL = replace(
    _CIFAR_MODERN,
    network=Network(backbone="wrn", depth=16, width=4),
    surrogates=(Network(backbone="wrn", depth=16, width=4), Network(backbone="vgg16_bn", width=0.5)),
    surrogate_epochs=15,
    epochs=15,
    learning_rate=0.2,
    precision="auto",
)
_CIFAR_TINY = replace(
    _CIFAR_SMALL,
    network=Network(backbone="wrn", depth=10, width=1),
    surrogates=(Network(backbone="wrn", depth=10, width=1), Network(backbone="vgg16_bn", width=0.125)),
    surrogate_epochs=6,
    epochs=6,
    evaluate_every=300,
    evaluate_n=500,
    checkpoint_every=100,
)
# The most robust networks for an hour of a CPU core: docs/preset-cpu.md, what each choice bought.
_CIFAR_CPU = replace(
    _CIFAR_SMALL,
    network=Network(backbone="wrn", depth=10, width=2),
    surrogates=(Network(backbone="wrn", depth=10, width=2), Network(backbone="vgg16_bn", width=0.25)),
    surrogate_epochs=12,
    epochs=12,
    crop=2,
    # Learning from attacked images alone saves a third of a step.
    clean_share=0.0,
    evaluate_every=702,  # two epochs
    evaluate_n=500,
    checkpoint_every=100,
    # All weights of the factorial then fit into its repository.
    saved_as="float16",
)

# Digits: 8 x 8 pixels, about 1,300 training images; a flipped digit is another sign.
_DIGITS_TINY = TrainingSettings(
    network=Network(backbone="small_cnn"),
    surrogates=(Network(backbone="small_cnn"), Network(backbone="vgg16_bn", width=0.125)),
    surrogate_epochs=20,
    # Chosen on validation images, seeds 0 to 3: 550 steps of N-FGSM take as long as 190 of IFGSM-7 and are worth ten
    # points of accuracy under attack; crops cost ten. The rate is that of recipes without one of their own.
    steps=400,
    learning_rate=0.8,
    schedule="cyclic",
    train_attack="nfgsm",
    attack_start="uniform",
    evaluate_every=40,
    evaluate_n=144,
    checkpoint_every=40,
    average=0.02,
)
_DIGITS_SMALL = replace(
    _DIGITS_TINY,
    network=Network(backbone="small_cnn", width=2),
    surrogates=(Network(backbone="small_cnn", width=2), Network(backbone="vgg16_bn", width=0.25)),
    surrogate_epochs=40,
    steps=2000,
    learning_rate=0.2,
    evaluate_every=100,
    checkpoint_every=100,
)
_DIGITS_MODERN = replace(
    _DIGITS_SMALL,
    network=Network(backbone="small_cnn", width=4),
    surrogates=(Network(backbone="small_cnn", width=4), Network(backbone="vgg16_bn", width=0.5)),
    steps=5000,
)
_DIGITS_PAPER = replace(
    _DIGITS_MODERN,
    steps=20_000,
    learning_rate=0.1,
    schedule="staircase",
    train_attack="ifgsm7",
    attack_start="gaussian",
    evaluate_every=200,
    checkpoint_every=200,
    average=0.0,
)

# docs/tuning.md: what the one grid gave.
_CIFAR_CPU_RATES = {
    "baseline": 0.8,
    "ensemble2": 0.2,
    "ensemble4": 0.8,
    "singleadv": 0.8,
    "doubleadv": 0.8,
    "quadadv": 0.8,
    "ensemble2adv": 0.8,
    "ensemble4adv": 0.8,
    "jointattack2adv": 0.8,
    "jointloss2adv": 0.8,
    "gated2adv": 0.4,
}
_DIGITS_TINY_RATES = {
    "ensemble2": 0.4,
    "singleadv": 1.6,
    "doubleadv": 1.6,
    "ensemble4adv": 1.6,
    "quadadv": 3.2,
    "ensemble2adv": 3.2,
    "jointattack2adv": 3.2,
    "jointloss2adv": 3.2,
    "gated2adv": 3.2,
}


def _tuned(rates: Mapping[str, float]) -> Mapping[str, Mapping[str, float]]:
    return {recipe: {"learning_rate": rate} for recipe, rate in rates.items()}


_ALL = (
    Preset(
        name="paper",
        description="WRN-28-10, 500,000 steps, IFGSM-7: days on a GPU",
        settings={"cifar10": _CIFAR_PAPER, "digits": _DIGITS_PAPER},
    ),
    Preset(
        name="modern",
        description="WRN-28-10, 30 epochs, N-FGSM, bf16: hours on a GPU",
        settings={"cifar10": _CIFAR_MODERN, "digits": _DIGITS_MODERN},
    ),
    Preset(
        name="small",
        description="WRN-16-4, 15 epochs, N-FGSM: minutes on a GPU",
        settings={"cifar10": _CIFAR_SMALL, "digits": _DIGITS_SMALL},
    ),
    Preset(
        name="cpu",
        description="WRN-10-2, 12 epochs, N-FGSM: the most robust for an hour of a CPU core",
        settings={"cifar10": _CIFAR_CPU, "digits": _DIGITS_TINY},
        tuned={"cifar10": _tuned(_CIFAR_CPU_RATES), "digits": _tuned(_DIGITS_TINY_RATES)},
    ),
    Preset(
        name="tiny",
        description="WRN-10-1 (digits: a small CNN), made for a CPU",
        settings={"cifar10": _CIFAR_TINY, "digits": _DIGITS_TINY},
        tuned={"digits": _tuned(_DIGITS_TINY_RATES)},
    ),
)
PRESETS: Mapping[str, Preset] = {preset.name: preset for preset in _ALL}


def preset_of(name: str) -> Preset:
    """The preset of a name, ours or another package's; raises as registry.resolve."""
    found: Preset = registry.resolve("preset", name)
    return found
