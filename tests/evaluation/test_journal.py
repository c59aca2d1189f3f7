"""The journal: what was put is on disk, and a crash costs at most the line it was writing."""

import json
import math
import re
from pathlib import Path

import pytest

from ensemble_bench.evaluation.journal import Journal

VALUES = {"broken": [True, False], "margin": [0.1, math.nan], "seconds": 1.5}


def filled(path: Path, blocks: int = 3) -> Journal:
    journal = Journal(path, "an evaluation")
    for block in range(blocks):
        journal.put("pgd20", block, {**VALUES, "passes": block})
    return journal


def test_every_put_is_on_disk_at_once(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "journal.jsonl"
    journal = Journal(path, "an evaluation")
    for block in range(3):
        journal.put("pgd20", block, {"passes": block})
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert all(re.fullmatch("[0-9a-f]{8}", line.pop("check")) for line in lines)
        assert lines[0] == {"evaluation": "an evaluation"}
        assert lines[1:] == [{"attack": "pgd20", "block": b, "passes": b} for b in range(block + 1)]


def test_puts_reach_the_disk_and_not_only_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    synced: list[bytes] = []
    path = tmp_path / "journal.jsonl"
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(path.read_bytes()))
    filled(path, blocks=1)
    assert synced[-1] == path.read_bytes()


def test_reading_back_gives_what_was_put(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    written = filled(path)
    again = Journal(path, "an evaluation")
    for block in range(3):
        assert repr(again.get("pgd20", block)) == repr(written.get("pgd20", block))  # NaN is not equal to itself
    assert again.get("pgd20", 3) is None
    assert again.get("pgd5", 0) is None


@pytest.mark.parametrize("cut", [1, 2, 30])
def test_a_truncated_last_line_is_cut_and_done_again(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "journal.jsonl"
    filled(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    journal = Journal(path, "an evaluation")
    assert journal.get("pgd20", 1) is not None
    assert journal.get("pgd20", 2) is None
    journal.put("pgd20", 2, {**VALUES, "passes": 2})
    assert path.read_bytes() == whole


def test_every_prefix_of_a_journal_can_be_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    filled(path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        journal = Journal(path, "an evaluation")
        for block in range(3):
            if journal.get("pgd20", block) is None:
                journal.put("pgd20", block, {**VALUES, "passes": block})
        assert path.read_bytes() == whole


def test_garbage_ends_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    filled(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"\0" * 50 + b"\n", *lines[3:]]))
    journal = Journal(path, "an evaluation")
    assert [journal.get("pgd20", b) is None for b in range(3)] == [False, True, True]
    assert path.read_bytes() == b"".join(lines[:2])


def test_the_journal_of_another_evaluation_is_discarded(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    filled(path)
    journal = Journal(path, "another")
    assert journal.get("pgd20", 0) is None
    (line,) = path.read_text().splitlines()
    assert json.loads(line)["evaluation"] == "another"


def test_without_a_path_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    journal = Journal(None, "an evaluation")
    journal.put("pgd20", 0, {"passes": 1})
    assert journal.get("pgd20", 0) == {"attack": "pgd20", "block": 0, "passes": 1}
    journal.remove()
    assert list(tmp_path.iterdir()) == []


def test_remove_deletes_the_file_and_may_come_twice(tmp_path: Path) -> None:
    journal = filled(tmp_path / "journal.jsonl")
    journal.remove()
    journal.remove()
    assert list(tmp_path.iterdir()) == []
