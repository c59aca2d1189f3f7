"""An evaluation that is killed goes on where it was, and ends with the same bytes."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import rounding
import torch
from evaluated_runs import N, make_run, same_but_seconds
from killing import Killed, killing
from small_models import blackbox_set, recorded, trained

from ensemble_bench.evaluation import job as jobs
from ensemble_bench.evaluation.runner import evaluate, evaluate_checkpoints


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_anywhere_and_resumed_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(jobs, "BLOCK", 20)
    expected = evaluate(trained(), n=N, blackbox=blackbox_set(), out=tmp_path / "whole")
    draw, kills = random.Random(seed), 0
    while True:
        after = draw.randint(3, 40)
        try:
            found = evaluate(trained(), n=N, blackbox=blackbox_set(), out=tmp_path / "killed", progress=killing(after))
            break
        except Killed:
            kills += 1
            assert not (tmp_path / "killed" / "record.json").exists()
    assert kills > 2
    names = ("whole", "killed")
    whole, killed = ((tmp_path / name / "samples.parquet").read_bytes() for name in names)
    assert whole == killed
    assert same_but_seconds(found.record) == same_but_seconds(expected.record)
    assert sorted(p.name for p in (tmp_path / "killed").iterdir()) == ["record.json", "samples.parquet"]


def test_finished_blocks_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "BLOCK", 20)
    model = trained()
    with recorded(model) as calls:
        evaluate(model, n=N, suite="sweep10", out=tmp_path / "whole")
    whole = sum(n for n, _ in calls)
    journal = tmp_path / "killed" / "journal.jsonl"
    # A line that names the evaluation, and for the clean images and each of ten stages one a block.
    whole_journal = 1 + 3 * 11
    finished = [0]
    with recorded(model) as calls:
        while finished[-1] == 0 or journal.exists():
            with contextlib.suppress(Killed):
                evaluate(model, n=N, suite="sweep10", out=journal.parent, progress=killing(40))
            finished.append(len(journal.read_text().splitlines()) if journal.exists() else whole_journal)
    assert len(finished) > 2
    assert finished == sorted(finished)
    assert finished[-2] < whole_journal
    # Each kill costs one block's work at most.
    assert whole <= sum(n for n, _ in calls) < whole + (len(finished) - 2) * 20 * 2 * 21


SCRIPT = """
import sys, time
from ensemble_bench.evaluation import job as jobs
from ensemble_bench.evaluation.runner import evaluate_checkpoints
jobs.BLOCK = 20
def progress(label, done, total, **fields):
    print(label, done, fields.get("stage"), fields.get("standing"), flush=True)
    time.sleep(0.01)
evaluate_checkpoints([sys.argv[1]], n=int(sys.argv[2]), blackbox=sys.argv[3], progress=progress)
"""


@pytest.mark.skipif(bool(rounding.SEED), reason="a process of its own rounds as this processor does")
def test_a_process_killed_with_sigkill_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "runs" / "singleadv-s0")
    monkeypatch.setattr(jobs, "BLOCK", 20)
    other = Path(shutil.copytree(run, tmp_path / "other" / run.name))
    (expected,) = evaluate_checkpoints([other], n=N, blackbox=blackbox_set())
    command = [sys.executable, "-c", SCRIPT, str(run), str(N), str(blackbox_set())]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    ) as p:
        assert p.stdout is not None
        steps = 0
        for line in p.stdout:
            steps += "3 of 5: pgd5" in line
            if steps == 9:  # within its second block, after the five steps of the first, its start and its end
                p.send_signal(signal.SIGKILL)
                break
    assert p.returncode == -signal.SIGKILL
    (journal,) = run.rglob("journal.jsonl")
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    assert {"ifgsm5", "ifgsm7", "clean"} <= {e.get("attack") for e in entries}
    assert not list(run.rglob("record.json"))

    (found,) = evaluate_checkpoints([run], n=N, blackbox=blackbox_set())
    assert same_but_seconds(found) == same_but_seconds(expected)
    folders = [next(root.rglob("record.json")).parent for root in (run, other)]
    one, two = ((folder / "samples.parquet").read_bytes() for folder in folders)
    assert one == two
    assert not list(run.rglob("journal.jsonl"))
