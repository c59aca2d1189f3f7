"""benchmarks/README.md, and README's lines on speed and cost, say what benchmarks/results hold."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import speed  # noqa: E402


def test_a_cost_is_how_many_times_a_suites_autoattack_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("quick", "quick (float32)", "strongest", "AutoAttack")
    part = {
        "title": "a-model, 1000 test images",
        "ours": names[:3],
        "robust": dict(zip(names, (0.5, 0.5, 0.49, 0.51), strict=True)),
        "passes": dict(zip(names, (100, 90, 1000, 2500), strict=True)),
        "seconds": dict(zip(names, ([2.0], [3.0], [16.0], [40.0]), strict=True)),
    }
    (tmp_path / "suite_cost.json").write_text(json.dumps({"processor": "P", "threads": 1, "parts": [part]}))
    monkeypatch.setattr(speed, "RESULTS", tmp_path)
    assert "| a-model | 51.0 | 50.0 | 49.0 | 25.0 | 2.5 | 20.0 | 2.5 |" in speed.costs()


def test_page_and_readme_say_which_attack_it_is_and_that_ours_takes_fewer_steps() -> None:
    page = speed.page()
    for text in (speed.summary(), page[: page.index("| | seconds |")]):
        assert "`ifgsm20`" in text
        assert "`pgd20` is another" in text
        assert "leaves an image once it has fallen" in text
        assert "take all 20 steps" in text


def test_a_run_of_ours_that_takes_all_steps_stands_among_the_ratios(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = "ensemble-bench bf16"
    seconds = {ours: [1.0], f"{ours}, all steps": [2.0], "peer": [3.0], "peer, channels-last": [4.0]}
    part = {"title": "ensemble2adv on data", "ours": [ours], "seconds": seconds}
    (tmp_path / "attack_engine.json").write_text(json.dumps({"processor": "P", "threads": 1, "parts": [part]}))
    monkeypatch.setattr(speed, "RESULTS", tmp_path)
    assert "in float32: ensemble-bench bf16, all steps 2.0, peer 3.0 (P" in speed.summary()


def test_a_ratio_is_the_median_of_those_of_the_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"ensemble-bench float32": [1.0, 2.0, 4.0], "peer": [3.0, 8.0, 8.0]}  # ratios 3, 4, 2; of medians 4
    part = {"title": "Steps", "ours": ["ensemble-bench float32"], "seconds": seconds}
    setting = {"processor": "P", "threads": 1, "versions": {"torch": "2"}, "clock": "wall", "parts": [part]}
    (tmp_path / "training_step.json").write_text(json.dumps(setting))
    monkeypatch.setattr(speed, "RESULTS", tmp_path)
    page = speed.page()
    assert "| peer | 8.000 | 3.00 |" in page
    assert "| ensemble-bench float32 | 2.000 | 1.00 |" in page
    assert "P, 1 threads, torch 2. Times are of the wall." in page
    assert "medians of 3 rounds" in page
