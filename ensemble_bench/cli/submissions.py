"""`ensemble-bench bundle`, `verify` and `submit`."""

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensemble_bench.cli.options import DataDir, Device, Sets, given
from ensemble_bench.errors import BundleError, InvalidValueError, UnknownNameError
from ensemble_bench.records import CHECKPOINTS
from ensemble_bench.registry.terms import NOT_REPRODUCED, REFUSED, VERIFIED

if TYPE_CHECKING:
    from ensemble_bench.submissions.targets import Receipt
    from ensemble_bench.submissions.verification import Comparison, Verification

# Parameters of submit by what --to has to be for them.
THERE, HERE = ("token", "wait"), ("suite", "n", "data_dir", "device", "work", "runs")
EXIT = {VERIFIED: 0, NOT_REPRODUCED: 1, REFUSED: 2}
Name = Annotated[str | None, typer.Option(help="Name to publish under; by default the run's.")]
Suite = Annotated[str | None, typer.Option(help="Repeat the claims of this suite only; by default all.")]
Images = Annotated[int | None, typer.Option(min=1, help="Repeat claims on at most so many images; by default on all.")]
Work = Annotated[
    Path | None,
    typer.Option(help="Folder to keep the unpacked bundle and the records in, and to go on from; by default none."),
]


def bundle(
    run: Annotated[Path, typer.Argument(help="Run folder, with its records in evaluations/.")],
    checkpoint: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(CHECKPOINTS)}; by default the first that the run has.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A .zip, or else a folder, to write; by default NAME.zip in this folder.")
    ] = None,
    name: Name = None,
    authors: Annotated[str, typer.Option(help="Authors, for RobustBench's entry.")] = "",
    link: Annotated[str, typer.Option(help="Address of a paper or a page.")] = "",
    venue: Annotated[str, typer.Option(help="Where it was published.")] = "Unpublished",
) -> None:
    """Pack a trained model and what its records claim into one file that others can verify."""
    if checkpoint not in (None, *CHECKPOINTS):
        raise UnknownNameError("checkpoint", checkpoint, CHECKPOINTS)
    from ensemble_bench.submissions import bundling

    path = bundling.bundle(run, checkpoint_name=checkpoint, out=out, name=name, authors=authors, link=link, venue=venue)
    for record in bundling.unclaimed(run, checkpoint_name=checkpoint):
        told = f"suite {record.suite}, {record.threat}, {record.n} {record.split} images"
        typer.echo(f"not claimed: {told}", err=True)
    typer.echo(path)


def verify(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle: a .zip or a folder.")],
    suite: Suite = None,
    n: Images = None,
    data_dir: DataDir = None,
    device: Device = None,
    work: Work = None,
    runs: Sets = Path("runs"),
) -> None:
    """Repeat what a bundle claims: exit status 0 if verified, 1 if not reproduced, 2 if refused."""
    if not path.exists():
        raise BundleError(f"{path}: does not exist: expected a .zip or a folder")
    from ensemble_bench.cli.bars import shown_progress
    from ensemble_bench.submissions import verification

    with tempfile.TemporaryDirectory() as scratch:
        with shown_progress() as progress:
            result = verification.verify(
                path,
                suite=suite,
                n=n,
                data_dir=data_dir,
                device=device,
                work=work or scratch,
                runs=runs,
                progress=progress,
            )
        _print_verification(result, path)
    raise typer.Exit(EXIT[result.status])


def submit(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle, or a run folder.")],
    to: Annotated[
        str,
        typer.Option(
            help="A folder of leaderboards (verifies and publishes there), http(s)://… (an upload service) or "
            "hf://owner/name (the Hugging Face Hub)."
        ),
    ],
    token: Annotated[
        str | None, typer.Option(help="Token of the upload service; by default the environment's ENSEMBLE_BENCH_TOKEN.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the upload service has verified it.")] = False,
    suite: Suite = None,
    n: Images = None,
    data_dir: DataDir = None,
    device: Device = None,
    work: Work = None,
    runs: Sets = Path("runs"),
) -> None:
    """Submit a model to a leaderboard; exit status as verify, 0 while a service has not decided.

    --token and --wait are for an upload service, the other options for a folder, whose models are verified here.
    """
    from ensemble_bench.submissions import targets

    online, hub = targets.is_service(to), to.startswith(targets.HUB)
    if option := given(context, *(() if online else THERE), *(HERE if online or hub else ())):
        where = "an upload service" if online else "the Hub" if hub else "a folder"
        raise InvalidValueError(f"{option} is given, but --to is {to!r}: {where} has no use for it")
    from ensemble_bench.cli.bars import shown_progress
    from ensemble_bench.submissions.submit import Publication
    from ensemble_bench.submissions.submit import submit as submit_model
    from ensemble_bench.submissions.verification import Verification

    def report(news: "Receipt | Verification | Publication") -> None:
        bars.close()  # while they are drawn, stdout is theirs
        match news:
            case Verification():
                _print_verification(news, path)
            case Publication():
                typer.echo(news.place)
            case _:
                _print_receipt(news)

    with contextlib.ExitStack() as bars:
        progress = bars.enter_context(shown_progress())
        status = submit_model(
            path,
            to,
            token=token,
            wait=wait,
            suite=suite,
            n=n,
            data_dir=data_dir,
            device=device,
            work=work,
            runs=runs,
            report=report,
            progress=progress,
        )
    raise typer.Exit(EXIT.get(status, 0))


def _print_verification(result: "Verification", path: Path) -> None:
    """Print what was claimed beside what was measured, the verdict and its reasons."""
    from ensemble_bench.cli.console import ENDS
    from ensemble_bench.cli.tables import table
    from ensemble_bench.submissions.format.untrusted import on_one_line

    if result.comparisons:
        scores = [
            head
            for name in ("clean", "robust")
            for told in (f"{name}, claimed", f"{name}, measured")
            for head in (told, *ENDS)
        ]
        columns = ["suite", "seed", "n", *scores, "images", "differ", "may"]
        table("claimed and measured accuracy in %, with 95 % intervals", columns, map(_row, result.comparisons))
    typer.echo(f"{result.name or path}: {result.status}")
    for flag in result.flags:
        typer.echo(f"  {flag.name}: {flag.message}")
    for reason in result.reasons:
        typer.echo(f"  {on_one_line(reason)}")


def _row(comparison: "Comparison") -> list[object]:
    from ensemble_bench.cli.console import interval

    claim, record = comparison.claim, comparison.record
    n = str(claim.n) if claim.n == record.n else f"{record.n} of {claim.n}"
    scores = (claim.clean, record.clean, claim.robust, record.robust)
    found = comparison.agreement
    cells = [cell for score in scores for cell in interval(score)]
    return [claim.suite, claim.seed, n, *cells, found.compared, found.differing, comparison.allowed]


def _print_receipt(receipt: "Receipt") -> None:
    from ensemble_bench.submissions.format.untrusted import on_one_line

    typer.echo(on_one_line(f"submission {receipt.id}: {receipt.status}"))
    for reason in receipt.reasons:
        typer.echo(on_one_line(f"  {reason}"))
