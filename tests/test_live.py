"""The live table: a row a run, a column a kind of work; without a terminal plain lines."""

import io

import pytest
from rich.console import Console

from ensemble_bench.cli import live
from ensemble_bench.cli.live import LiveTable, summary
from ensemble_bench.experiment.board import Board, Event
from ensemble_bench.experiment.plan import Job


def a_board() -> Board:
    """One run trained and under attack, one in training, one that failed, and one that waits."""

    def job(call: str, row: str, *needs: str) -> Job:
        column = "train" if call == "train" else "quick"
        return Job(name=f"{column} {row}", call=call, arguments={}, row=row, column=column, needs=needs)

    jobs = [
        job(call, run, *needs)
        for run in ("a-s0", "b-s0", "c-s0", "d-s0")
        for call, needs in (("train", ()), ("evaluate", (f"train {run}",)))
    ]
    board = Board(jobs, expected={job.name: 60.0 for job in jobs})
    for name in ("train a-s0", "train b-s0", "train c-s0"):
        board.start(board.jobs[name])
    board.hear(Event(job="train a-s0", kind="done"))
    board.hear(Event(job="train c-s0", kind="failed", reason="the loss of step 3 is nan"))
    board.hear(Event(job="train b-s0", kind="progress", label="train b-s0", done=30, total=100, fields={"loss": 1.25}))
    board.start(board.jobs["quick a-s0"])
    board.ready()
    return board


def drawn(board: Board, monkeypatch: pytest.MonkeyPatch, *, terminal: bool, height: int = 40) -> str:
    sink = io.StringIO()
    console = Console(file=sink, force_terminal=terminal, width=120, height=height, color_system=None)
    monkeypatch.setattr(live, "Console", lambda **_: console)
    with LiveTable(2) as table:
        table(board)
        if terminal:
            console.print(table._drawn(board))
    return sink.getvalue()


def test_a_terminal_shows_every_run_and_every_kind_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    text = drawn(a_board(), monkeypatch, terminal=True)
    cells = {line.split()[0]: line.split() for line in text.splitlines() if line.split()}
    assert cells["run"] == ["run", "train", "quick"]
    assert cells["a-s0"] == ["a-s0", "done", "0", "%", "60", "s"]
    assert cells["b-s0"] == ["b-s0", "30", "%", "waiting"]
    assert cells["c-s0"] == ["c-s0", "failed", "skipped"]
    assert cells["d-s0"] == ["d-s0", "waiting", "waiting"]
    assert "failed: train c-s0: the loss of step 3 is nan" in text
    assert "skipped: quick c-s0: needs train c-s0" in text


def test_where_rows_do_not_fit_those_under_way_and_failed_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [Job(name=f"train {i}", call="train", arguments={}, row=f"run{i}", column="train") for i in range(30)]
    board = Board(jobs, expected={})
    for i in (3, 17):
        board.start(jobs[i])
    text = drawn(board, monkeypatch, terminal=True, height=20)
    assert {word for word in text.split() if word.startswith("run") and word[3:].isdecimal()} == {"run3", "run17"}
    assert "28 more runs, 0 of them done" in text


def test_elsewhere_events_and_now_and_then_a_summary_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = drawn(a_board(), monkeypatch, terminal=False).splitlines()
    assert lines[:3] == [
        "done: train a-s0 in 0.0 s",
        "failed: train c-s0: the loss of step 3 is nan",
        "skipped: quick c-s0: needs train c-s0",
    ]
    assert lines[3].startswith("1 of 8 jobs done, 2 running, 3 waiting, 1 failed, 1 skipped; about ")
    assert "train b-s0: 30/100, loss 1.25" in " ".join(lines[3:])


def test_when_all_is_over_nothing_is_left() -> None:
    board = Board([Job(name="a", call="train", arguments={}, row="a", column="train")], expected={"a": 5.0})
    board.start(board.jobs["a"])
    board.hear(Event(job="a", kind="done"))
    assert summary(board, 2) == "1 of 1 jobs done"
