"""`leaderboard evaluate`: published models are evaluated by their board's rules, and get the rank that is theirs."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from sample_bundles import honest, tree
from typer.testing import CliRunner, Result

from ensemble_bench.cli.leaderboard import app
from ensemble_bench.errors import AttackError, CheckpointError, DataError, InvalidValueError, UnknownNameError
from ensemble_bench.leaderboard.rules import Rules, write_rules
from ensemble_bench.leaderboard.site.models import read_models
from ensemble_bench.submissions import reevaluation
from ensemble_bench.submissions.submit import submit

RULES = Rules(suite="ifgsm1+probe", n=20, seed=3, operator="us", clean=False)


@pytest.fixture
def boards(tmp_path: Path) -> Path:
    """A leaderboard that got its rules after a model was published there."""
    root = tmp_path / "boards"
    assert submit(honest(), str(root)) == "verified"
    write_rules(RULES, root)
    return root


def run(root: Path, *arguments: object) -> Result:
    result = CliRunner().invoke(app, ["evaluate", "--root", str(root), *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit | typer.Exit):
        raise result.exception
    return result


def test_a_model_gets_its_rank_by_the_boards_rules_once(boards: Path) -> None:
    (before,) = read_models(boards)
    assert before.standing.rank is None
    shown = run(boards)
    assert shown.exit_code == 0
    assert "digits/linf32of255" in shown.stdout
    (after,) = read_models(boards)
    record, verdict = after.record, after.standing.verdict
    assert (after.standing.rank, after.standing.reasons) == (1, ())
    assert (record.suite, record.n, record.seed, record.weights_hash) == (
        "ifgsm1+probe",
        20,
        3,
        before.record.weights_hash,
    )
    assert verdict is not None
    assert (verdict.status, verdict.by, verdict.images, verdict.claimed_precision) == ("verified", "us", 360, None)
    assert before.record in after.records  # with the verdict that it had
    (board,) = boards.glob("*/*")
    rows = list(csv.DictReader((board / "leaderboard.csv").open()))
    assert [(row["suite"], row["rank"]) for row in rows] == [("ifgsm1+probe", "1"), ("ifgsm5+margin10", "")]
    files = tree(boards)
    again = run(boards)
    assert (again.exit_code, again.stdout) == (0, f"{boards}: every published model has a rank\n")
    assert tree(boards) == files
    assert run(boards, "--models", "mine").exit_code == 0  # that was named: evaluated, with what comes out again


def test_one_that_cannot_be_evaluated_says_why_and_the_others_go_on(
    boards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise AttackError("mine/best: the model gave NaN")

    monkeypatch.setattr(reevaluation, "evaluated", refused)
    files = tree(boards)
    shown = run(boards)
    assert shown.exit_code == 1
    assert "the model gave NaN" in shown.stdout
    assert tree(boards) == files


def test_bad_input_is_one_line_before_anything_runs(boards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reevaluation, "evaluated", lambda *_: pytest.fail("it was attacked"))
    with pytest.raises(UnknownNameError, match="unknown published model 'mine2': did you mean mine"):
        run(boards, "--models", "mine2")
    with pytest.raises(InvalidValueError, match="models is ',': expected names"):
        run(boards, "--models", ",")
    with pytest.raises(CheckpointError, match="no published models"):
        run(boards / "nowhere")
    monkeypatch.setattr(reevaluation, "commit", lambda: "1" * 40 + "-dirty")
    write_rules(replace(RULES, clean=True), boards)
    with pytest.raises(InvalidValueError, match=r"board\.json ranks evaluations from clean trees alone"):
        run(boards)
    write_rules(replace(RULES, n=361), boards)
    with pytest.raises(DataError, match="n is 361, the test split of digits holds 360"):
        run(boards)
