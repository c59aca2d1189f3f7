"""The command line. torch and the toolkits load inside the commands, so that `--help` answers at once."""

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ensemble_bench import registry
from ensemble_bench.errors import EnsembleBenchError, InvalidValueError, UnknownNameError

app = typer.Typer(
    name="ensemble-bench",
    help="Train ensembles against adversarial examples, and measure beyond doubt how robust they are.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
blackbox_app = typer.Typer(help="Black-box sets: images that fool two networks no model has seen.")
app.add_typer(blackbox_app, name="blackbox")

KINDS = {
    "recipes": "recipe",
    "presets": "preset",
    "suites": "suite",
    "attacks": "attack",
    "datasets": "data set",
    "backbones": "backbone",
}


def _names(kind: str) -> str:
    return ", ".join(registry.names(kind))


Runs = Annotated[Path, typer.Option(help="Folder of the runs.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder that holds CIFAR-10; by default the environment's ENSEMBLE_BENCH_DATA, else a download."),
]
Eps = Annotated[
    str | None, typer.Option(help="Size of the perturbation, such as 8/255 or 0.03; by default the data set's own.")
]
Device = Annotated[str | None, typer.Option(help="Such as cpu, cuda or cuda:1; by default a GPU where there is one.")]
Preset = Annotated[str, typer.Option(help=f"Size and schedule: {_names('preset')}.")]


def parse_eps(text: str) -> float:
    """Read an eps written as a number or as a fraction: "8/255" is 0.03137.

    Raises InvalidValueError, naming the value, unless it is a positive number.
    """
    above, _, below = text.partition("/")
    try:
        eps = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        eps = math.nan
    if not 0 < eps < math.inf:
        raise InvalidValueError(f"eps is {text!r}: it must be a positive number or fraction, such as 0.03 or 8/255")
    return eps


def parse_sizes(text: str) -> list[float]:
    """Read one eps or several: "4/255,8/255" is two; raises InvalidValueError as parse_eps."""
    return [parse_eps(part) for part in text.split(",")]


def _version(wanted: bool) -> None:
    """Print the version and leave, if asked to."""
    if wanted:
        from ensemble_bench import __version__

        typer.echo(f"ensemble-bench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_version)
    ] = False,
) -> None: ...


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help=f"What to train: {_names('recipe')}.", show_default=False)],
    dataset: Annotated[str, typer.Option(help=f"Data set: {_names('data set')}.")] = "digits",
    data_dir: DataDir = None,
    preset: Preset = "tiny",
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; by default runs/<recipe>-<data>-<preset>-s<seed>.")
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many steps; by default the preset's number.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was interrupted.")] = False,
    match: Annotated[
        str,
        typer.Option(help="What a single model gets as much of as the ensemble: paper (its width), params or flops."),
    ] = "params",
    objective: Annotated[
        str,
        typer.Option(
            help="ensemble: loss of the mean probability; member-mean: mean of the members' losses; "
            "adp: their sum, and a bonus for members that diverge."
        ),
    ] = "ensemble",
    train_attack: Annotated[
        str | None, typer.Option(help="Attack to train against: ifgsm7 or nfgsm; by default the preset's.")
    ] = None,
    eps: Eps = None,
    device: Device = None,
) -> None:
    """Train RECIPE on a data set, and write checkpoints and learning curves."""
    for kind, name in (("recipe", recipe), ("data set", dataset), ("preset", preset)):
        registry.check(kind, name)
    size = parse_eps(eps) if eps is not None else None
    from ensemble_bench.console import Bars
    from ensemble_bench.training.trainer import train as train_recipe

    with Bars() as bars:
        run = train_recipe(
            recipe,
            dataset=dataset,
            preset=preset,
            seed=seed,
            out=out,
            data_dir=data_dir,
            resume=resume,
            max_steps=max_steps,
            match=match,
            objective=objective,
            train_attack=train_attack,
            eps=size,
            device=device,
            progress=bars,
        )
    typer.echo(f"{run}\nscore it with: ensemble-bench evaluate {run}")


@app.command()
def evaluate(
    checkpoints: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Run folders or .safetensors files; by default every best and last checkpoint under --runs.",
            show_default=False,
        ),
    ] = None,
    suite: Annotated[
        str,
        typer.Option(
            help=f"Attacks to run: {_names('suite')}; or suites and attacks joined by plus signs, such as "
            "quick+pgd100+torchattacks:DIFGSM(steps=20)."
        ),
    ] = "paper",
    n: Annotated[
        int | None, typer.Option(min=1, help="Number of images, from the first; by default the whole split.")
    ] = None,
    seed: Seed = 0,
    eps: Annotated[
        str | None,
        typer.Option(
            help="Size of the perturbation, such as 8/255, or several with commas between; by default that of the "
            "training."
        ),
    ] = None,
    norm: Annotated[str | None, typer.Option(help="linf or l2; by default that of the training.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Data set; by default the one trained on.")] = None,
    data_dir: DataDir = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    blackbox: Annotated[
        Path | None, typer.Option(help="Black-box set to use; by default found under --runs, or built.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images at once; changes no result of our own attacks. By default chosen.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="float32, or bf16 to search in bfloat16; verdicts are float32 either way.")
    ] = "float32",
    device: Device = None,
    runs: Runs = Path("runs"),
) -> None:
    """Attack CHECKPOINTS with a suite, and write a record and one row an image for each."""
    registry.split_suite(suite)
    if dataset is not None:
        registry.check("data set", dataset)
    sizes = parse_sizes(eps) if eps is not None else None
    from ensemble_bench.console import Bars, show_records
    from ensemble_bench.evaluation.runner import evaluate_checkpoints
    from ensemble_bench.leaderboard.board import write_leaderboard

    with Bars() as bars:
        records = evaluate_checkpoints(
            checkpoints or None,
            runs=runs,
            suite=suite,
            dataset=dataset,
            data_dir=data_dir,
            n=n,
            seed=seed,
            split=split,
            norm=norm,
            eps=sizes,
            blackbox=blackbox,
            batch_size=batch_size,
            precision=precision,
            device=device,
            progress=bars,
        )
    show_records(records)
    # Checkpoints that were named need not lie under --runs, whose leaderboard holds what does.
    if any(runs.resolve() in record.path.resolve().parents for record in records if record.path):
        typer.echo(write_leaderboard(runs))


@app.command()
def report(
    runs: Runs = Path("runs"),
    out: Annotated[Path | None, typer.Option(help="Folder to write to; by default <runs>/report.")] = None,
    as_paper: Annotated[bool, typer.Option("--as-paper", help="Smooth and average as the paper does.")] = False,
    tables: Annotated[
        list[str] | None, typer.Option("--table", help="Only this table: 1, 2 or credits; may be given again.")
    ] = None,
    figures: Annotated[
        list[str] | None, typer.Option("--figure", help="Only this figure: 2, 3 or eps; may be given again.")
    ] = None,
) -> None:
    """Render the paper's tables and figures from the records under --runs."""
    from ensemble_bench.console import show_report
    from ensemble_bench.reports import parts_of, write_report

    parts = parts_of(tables or (), figures or ())
    show_report(write_report(runs, out or runs / "report", as_paper=as_paper, parts=parts))


@app.command()
def diagnose(
    checkpoint: Annotated[
        Path, typer.Argument(help="Run folder or .safetensors file of an ensemble.", show_default=False)
    ],
    n: Annotated[int, typer.Option(min=1, help="Number of images, from the first.")] = 200,
    attack: Annotated[str, typer.Option(help="Gradient attack to diagnose with.")] = "margin20",
    seed: Seed = 0,
    eps: Annotated[
        str | None, typer.Option(help="Size of the perturbation, such as 8/255; by default that of the training.")
    ] = None,
    norm: Annotated[str | None, typer.Option(help="linf or l2; by default that of the training.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Data set; by default the one trained on.")] = None,
    data_dir: DataDir = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    out: Annotated[Path | None, typer.Option(help="Folder to write to; by default <run>/diagnosis.")] = None,
    device: Device = None,
) -> None:
    """Show whether the members of an ensemble fall together, and what each of them adds."""
    registry.split_steps(attack)
    if dataset is not None:
        registry.check("data set", dataset)
    size = parse_eps(eps) if eps is not None else None
    from ensemble_bench.console import Bars, show_tables
    from ensemble_bench.evaluation.diagnostics import diagnose as find
    from ensemble_bench.models.checkpoint import read_info
    from ensemble_bench.reports.diagnosis import tables, write_diagnosis

    with Bars() as bars:
        found = find(
            checkpoint,
            dataset=dataset,
            data_dir=data_dir,
            split=split,
            n=n,
            norm=norm,
            eps=size,
            attack=attack,
            seed=seed,
            device=device,
            progress=bars,
        )
    paths = write_diagnosis(found, out or read_info(checkpoint).path.parent / "diagnosis")
    show_tables(tables(found))
    for path in paths:
        typer.echo(path)


@blackbox_app.command()
def build(
    dataset: Annotated[str, typer.Option(help=f"Data set: {_names('data set')}.")] = "digits",
    data_dir: DataDir = None,
    preset: Preset = "tiny",
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="File to write; by default where evaluate looks for it.")] = None,
    n: Annotated[int | None, typer.Option(min=1, help="Number of test images; by default all.")] = None,
    eps: Eps = None,
    device: Device = None,
) -> None:
    """Train two surrogate networks, and keep the adversarial images that fool both."""
    for kind, name in (("data set", dataset), ("preset", preset)):
        registry.check(kind, name)
    size = parse_eps(eps) if eps is not None else None
    from ensemble_bench.console import Bars
    from ensemble_bench.evaluation.blackbox import build as build_set

    with Bars() as bars:
        path = build_set(
            dataset=dataset,
            preset=preset,
            seed=seed,
            out=out,
            data_dir=data_dir,
            eps=size,
            n=n,
            device=device,
            progress=bars,
        )
    typer.echo(path)


@app.command("list")
def list_names(
    kind: Annotated[
        str | None, typer.Argument(help=f"One of {', '.join(KINDS)}; by default all.", show_default=False)
    ] = None,
) -> None:
    """List the names that the other commands take."""
    if kind is not None and kind not in KINDS:
        raise UnknownNameError("kind", kind, KINDS)
    from ensemble_bench.console import show_names

    for shown in KINDS if kind is None else (kind,):
        show_names(shown, KINDS[shown])


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the demo's runs.")] = Path("runs/demo"),
    seed: Seed = 0,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of every training; by default the preset's.")
    ] = None,
    device: Device = None,
) -> None:
    """Train five small models on the digits, evaluate them all and render Table 1; a second call goes on."""
    from ensemble_bench.console import Bars, show_report
    from ensemble_bench.demo import run_demo

    with Bars() as bars:
        records, rendered, leaderboard = run_demo(out, seed=seed, max_steps=max_steps, device=device, progress=bars)
    show_report(rendered)
    typer.echo(f"{leaderboard}\n{len(records)} records, each beside its checkpoint under {out}")


@app.command()
def version() -> None:
    """Show the version and exit."""
    _version(True)


def run(arguments: Sequence[str]) -> int:
    """Run the command line on `arguments` and return the exit status.

    0: done; 2: the user can mend it, and one line on stderr says what; 130: interrupted. Anything else is a bug
    and keeps its traceback.
    """
    arguments = {(): ["--help"], ("blackbox",): ["blackbox", "--help"]}.get(tuple(arguments), list(arguments))
    try:
        status = app(args=arguments, prog_name="ensemble-bench", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        status = 130
    except EnsembleBenchError as error:
        return _fail(str(error))
    except BrokenPipeError:
        # The reader (`head`) has what it wanted; without this Python complains again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.filename is None:
            raise
        return _fail(f"{error.filename}: {error.strerror}")
    except Exception as error:
        # The usage errors of typer: its releases take their classes from different places, so they are known by this.
        usage = getattr(error, "format_message", None)
        if usage is None:
            raise
        return _fail(f"{usage()} (see {_help_call(error)})")
    if status == 130:
        way = "with --resume" if "train" in arguments else "again"
        print(f"interrupted: what was written stays; run the same command {way} to go on", file=sys.stderr)
    return int(status or 0)


def _help_call(error: Exception) -> str:
    """Name the command whose help a usage error asks for."""
    return f"{getattr(getattr(error, 'ctx', None), 'command_path', 'ensemble-bench')} --help"


def _fail(message: str) -> int:
    """Print one line on stderr, newlines of the message folded, and return 2."""
    print(f"ensemble-bench: {' '.join(message.split())}", file=sys.stderr)
    return 2
