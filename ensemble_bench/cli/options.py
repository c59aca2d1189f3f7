"""Options that several commands share, and how their values are read."""

from pathlib import Path
from typing import Annotated

import typer

from ensemble_bench import registry
from ensemble_bench.errors import InvalidValueError
from ensemble_bench.records.threat import parse_eps
from ensemble_bench.registry.places import FORMS


def names(kind: str) -> str:
    """Names of a kind, for a help text."""
    return ", ".join(registry.names(kind))


Runs = Annotated[Path, typer.Option(help="Folder of the runs.")]
Sets = Annotated[Path, typer.Option(help="Folder below which black-box sets are looked for, and built if missing.")]
DATASET = f"Data set: {names('data set')}, or {', '.join(FORMS)}."
TrainedData = Annotated[str | None, typer.Option(help=f"{DATASET} By default the one trained on.", show_default=False)]
Split = Annotated[str, typer.Option(help="train, validation or test.")]
Norm = Annotated[str | None, typer.Option(help="linf or l2; by default that of the training.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder that holds the data set, such as CIFAR-10; by default the environment's ENSEMBLE_BENCH_DATA, else "
        "a download."
    ),
]
Resize = Annotated[
    int | None,
    typer.Option(
        min=1, help="Of folder: and parquet: make the shorter side N pixels, then cut NxN (or --crop) from the middle."
    ),
]
Crop = Annotated[int | None, typer.Option(min=1, help="Of folder: and parquet: cut NxN pixels from the middle.")]
Eps = Annotated[
    str | None, typer.Option(help="Size of the perturbation, such as 8/255 or 0.03; by default the data set's own.")
]
Device = Annotated[str | None, typer.Option(help="Such as cpu, cuda or cuda:1; by default a GPU where there is one.")]
Arch = Annotated[
    str | None,
    typer.Option(
        help="Architecture of a state_dict file: such as wrn-16-4, preact_resnet18, timm:NAME or "
        "package.module:attribute."
    ),
]
Normalise = Annotated[
    str | None,
    typer.Option(
        help="What images are normalised by for --arch or your own code: dataset, pretrained (timm's) or none."
    ),
]
ModelDir = Annotated[Path, typer.Option(help="Folder of RobustBench's weights.")]
Preset = Annotated[str, typer.Option(help=f"Size and schedule: {names('preset')}.")]

Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Threads of the processor; by default as many as cores are idle now. Another number may change last bits.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Jobs at once, of one thread each; by default one a GPU, without any one a core.",
        show_default=False,
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        help="Do the work as Ray tasks: local, or the address of a cluster, such as auto or host:port, whose nodes see "
        "the same folders.",
        show_default=False,
    ),
]
Gpus = Annotated[float, typer.Option(min=0.0, help="With --ray: GPUs of a task, such as 0.5 for two on a GPU.")]


def given(context: typer.Context, *parameters: str) -> str | None:
    """The first option among these parameters of a command that stands in the command line; None for none."""
    for option in context.command.params:
        # The source of a value is an enum of typer's, which its releases take from different places.
        source = getattr(context.get_parameter_source(option.name or ""), "name", "")
        if option.name in parameters and source == "COMMANDLINE":
            return option.opts[0]
    return None


def check_ray(ray: str | None, **choices: float | None) -> None:
    """Raise InvalidValueError for one of the `choices` that is made for Ray tasks without Ray."""
    for name, value in choices.items():
        if value and ray is None:
            raise InvalidValueError(f"{name} is {value}: it is for Ray tasks, so give --ray too")


def chosen_data(dataset: str | None, resize: int | None, crop: int | None) -> str | None:
    """The data set asked for, None for the one trained on; raises as registry.check_data."""
    if dataset is not None:
        return registry.check_data(dataset, resize=resize, crop=crop)
    if resize is not None or crop is not None:
        raise InvalidValueError("--resize and --crop go with --dataset: the data set trained on keeps its size")
    return None


def parse_seeds(text: str) -> list[int]:
    """Read several seeds: "0-2" is 0, 1, 2, and "0,3,5-6" is 0, 3, 5, 6; raises InvalidValueError for anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not (first.isdecimal() and (last.isdecimal() or not dash)) or int(last or first) < int(first):
            raise InvalidValueError(f"seeds are {text!r}: expected a range such as 0-2, or numbers such as 0,3,5")
        seeds += range(int(first), int(last or first) + 1)
    return list(dict.fromkeys(seeds))


def parse_count(text: str) -> int:
    """Read how many seeds, from 0 on: "3" is three, and so is "0-2"; raises InvalidValueError for anything else."""
    if text.isdecimal():
        count = int(text)
    else:
        seeds = parse_seeds(text)
        count = len(seeds) if sorted(seeds) == list(range(len(seeds))) else 0
    if count < 1:
        raise InvalidValueError(f"seeds is {text!r}: expected how many, at least 1, or those from 0 on, such as 0-2")
    return count


def parse_sizes(text: str) -> list[float]:
    """Read one eps or several: "4/255,8/255" is two; raises InvalidValueError as parse_eps."""
    parts = text.split(",")
    if "" in parts:
        raise InvalidValueError(f"eps is {text!r}: expected a size such as 8/255, or several with commas between")
    return [parse_eps(part) for part in parts]
