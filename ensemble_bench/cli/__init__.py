"""The command line. torch and the toolkits load inside the commands, so that `--help` answers at once."""

import contextlib
import errno
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from ensemble_bench.cli import (
    blackbox,
    compare,
    demo,
    doctor,
    evaluate,
    leaderboard,
    names,
    report,
    reproduce,
    serve,
    submissions,
    train,
)
from ensemble_bench.errors import EnsembleBenchError
from ensemble_bench.training import interrupts, launched

INTERRUPTED, TERMINATED = 130, 143
# A disk, or what a user may fill of it, is full: whoever writes to a stream cannot tell its name.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PATHS = (
    *("--blackbox", "--data", "--data-dir", "--leaderboards", "--model-dir", "--out", "--robustbench", "--root"),
    *("--runs", "--save-images", "--to", "--work"),
)
TAKE_PATHS = {"bundle", "compare", "gallery", "submit", "verify"}
STATUSES = (
    "Exit status: 0 done; 1 something failed (some of several trainings; a submission that is not reproduced; a bug, "
    "with its traceback); 2 a mistake, and one line on stderr says how to mend it; 130 stopped by Ctrl-C, 143 by "
    "SIGTERM; the same command goes on from there (train with --resume)."
)

app = typer.Typer(
    name="ensemble-bench",
    help="Train ensembles against adversarial examples, and measure beyond doubt how robust they are.",
    epilog=STATUSES,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
GROUPS = {"blackbox": blackbox.app, "leaderboard": leaderboard.app}


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


def version() -> None:
    """Show the version and exit."""
    _version(True)


for command in (
    *(train.train, evaluate.evaluate, report.report, compare.compare, report.diagnose),
    *(submissions.bundle, submissions.verify, submissions.submit),
):
    app.command()(command)
for name, group in GROUPS.items():
    app.add_typer(group, name=name)
app.add_typer(serve.app, name="serve")  # a group that runs on its own: it starts the service
app.command("list")(names.list_names)
app.command()(demo.demo)
app.command()(reproduce.reproduce)
app.command()(doctor.doctor)
app.command()(version)


def run(arguments: Sequence[str]) -> int:
    """Run the command line on `arguments` and return the exit status, as STATUSES says.

    A bug keeps its traceback, with which Python exits as 1. Of several processes that were launched together, the first
    alone prints what they all come to.
    """
    with interrupts.terminable() as terminated, _first_speaks():
        status = _run(arguments)
        if launched.count() > 1:
            from ensemble_bench.training.distributed import leave

            leave()
        return TERMINATED if status == INTERRUPTED and terminated() else status


@contextlib.contextmanager
def _first_speaks() -> Iterator[None]:
    """Throw away what this process prints on stdout, unless it is the first or only one."""
    if launched.rank() == 0:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def _run(arguments: Sequence[str]) -> int:
    """Run the command line; SIGTERM is an interrupt like Ctrl-C."""
    arguments = list(arguments)
    if not arguments or (len(arguments) == 1 and arguments[0] in GROUPS):
        arguments = [*arguments, "--help"]
    if empty := _empty_path(arguments):
        return _fail(f"{empty} is '': expected a path")
    if launched.count() > 1 and arguments[0] != "train":
        return _fail(f"{launched.count()} processes were started, but only train can share its work: start one")
    try:
        status = app(args=arguments, prog_name="ensemble-bench", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except EnsembleBenchError as error:
        return _fail(str(error))
    except BrokenPipeError:
        # The reader (`head`) has what it wanted; without this Python complains again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        nowhere = error.filename is None and error.errno not in FULL
        if nowhere or launched.rank() > 0:  # the first process may know nothing of it
            raise
        # Of a copy that failed the second file is the one that was written.
        named = error.filename2 or error.filename or "standard output, or a temporary file"
        return _fail(f"{named}: {error.strerror}")
    except Exception as error:
        # The usage errors of typer: its releases take their classes from different places, so they are known by this.
        usage = getattr(error, "format_message", None)
        if usage is None:
            raise
        return _fail(f"{usage().removesuffix('.')}{_given(error, arguments)} (see {_help_call(error)})")
    if status == INTERRUPTED:
        way = "with --resume" if "train" in arguments[:1] else "again"
        _say(f"interrupted: what was written stays; run the same command {way} to go on")
    return int(status or 0)


def _given(error: Exception, arguments: Sequence[str]) -> str:
    """The value that a usage error is about: what typer's own message leaves out."""
    options = getattr(getattr(error, "param", None), "opts", ())
    values = [value for name, value in _options_in(arguments) if name in options]
    return f", got {values[-1]!r}" if values and repr(values[-1]) not in str(error) else ""


def _empty_path(arguments: Sequence[str]) -> str | None:
    """The option for a path that is given none, as by a variable of the shell that is not set; None where none is.

    It would stand for the current folder. So would an argument of the commands that TAKE_PATHS.
    """
    pairs = itertools.pairwise(arguments)
    if TAKE_PATHS.intersection(arguments[:2]) and any(not word and before[:1] != "-" for before, word in pairs):
        return "the argument"
    return next((name for name, value in _options_in(arguments) if name in PATHS and value == ""), None)


def _options_in(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Every word that may be an option, and its value if it takes one."""
    pairs = []
    for word, after in zip(arguments, [*arguments[1:], None], strict=True):
        name, sign, value = word.partition("=")
        if name.startswith("-") and (sign or after is not None):
            pairs.append((name, value if sign else str(after)))
    return pairs


def _help_call(error: Exception) -> str:
    """Name the command whose help a usage error asks for."""
    return f"{getattr(getattr(error, 'ctx', None), 'command_path', 'ensemble-bench')} --help"


def _fail(message: str) -> int:
    """Print one line on stderr, newlines of the message folded, and return 2."""
    _say(f"ensemble-bench: {' '.join(message.split())}")
    return 2


def _say(line: str) -> None:
    """Print a line on stderr, in the first process alone: what fails in another fails there too."""
    if launched.rank() == 0:
        print(line, file=sys.stderr)
