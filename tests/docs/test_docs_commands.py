"""Every command in the README and the documentation runs as it is printed, on little data and few steps."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import typer.main
from pages import PAGES, ROOT, commands

from ensemble_bench.cli import app, run

RUN = "runs/ensemble2adv-digits-tiny-s0"
PLACEHOLDERS = {
    "RUN": RUN,
    "OTHER": "runs/singleadv-digits-tiny-s0",
    "DIR": "data",
    "FOLDER": "work",
    "NAME,NAME": "ensemble2adv-digits-tiny-s0",
}
# What makes a command small enough, behind its own options.
SMALLER = {
    ("evaluate",): ["--n", "2"],
    ("reproduce",): ["--dry-run", "--recipes", "singleadv"],
    ("verify",): ["--n", "2"],
    ("submit",): ["--n", "2"],
    ("blackbox", "build"): ["--n", "2"],
}
# Part of a command, and who runs what has it.
ELSEWHERE = {
    "demo": "test_cli.py",
    "serve": "server/test_serve_command.py",
    "http://": "server/test_serve_command.py",
    "--ray": "experiment/test_cluster.py",
    "reproduce --dataset cifar10": "experiment/test_reproduce.py",  # as on the digits
    "--preset modern": "training/test_distributed.py",  # four WRN-28-10
    "robustbench:": "adapters/test_zoo.py",  # a download
    "hf:": "adapters/test_huggingface.py",
    "--tensorboard": "training/test_step_log.py",
    "stripes": "registry/test_plugins.py",  # needs the example package
    "zoo:doubleadv-cifar10-jpeg-cpu-s0": "test_published.py",
}
LONG = ("appendix", "autoattack", "strongest", "wrn-28-10")  # priced instead
EVERY = [(page, command) for page in PAGES for command in commands(page)]


def named(command: Sequence[str]) -> str:
    return " ".join(command)


def test_there_are_commands() -> None:
    assert len(EVERY) > 60
    assert all((ROOT / "tests" / file).is_file() for file in ELSEWHERE.values())


@pytest.mark.parametrize(("page", "command"), EVERY, ids=lambda value: value.name if isinstance(value, Path) else "")
def test_the_command_line_takes_it(page: Path, command: list[str]) -> None:
    """Names of commands and options, and what kind of value each takes; nothing runs."""
    level, rest = typer.main.get_command(app), list(command)
    while True:
        with level.make_context(level.name, rest, ignore_unknown_options=False) as context:
            rest = [*context._protected_args, *context.args]
            if not rest or not isinstance(level, typer.core.TyperGroup):
                return
            _, level, rest = level.resolve_command(context, rest)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if commands(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_it_runs(page: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of a page, one after the other in one folder."""
    folder = Path(shutil.copytree(prepared, tmp_path / "here"))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ENSEMBLE_BENCH_DATA", str(folder / "data"))
    for command in commands(page):
        if any(part in named(command) for part in ELSEWHERE):
            continue
        places = PLACEHOLDERS | ({"DIR": "model_info"} if command[:2] == ["leaderboard", "compare"] else {})
        words = [places.get(word, word) for word in command]
        for name, options in SMALLER.items():
            # Of two images that fell, rounding to 8 bits may leave a gallery none: there its own number stays.
            if tuple(words[: len(name)]) == name and not {"--n", "--save-images"} <= set(words):
                words += options
        if any(part in named(command) for part in LONG):
            words += ["--estimate"]
        assert run(words) == 0, named(words)
