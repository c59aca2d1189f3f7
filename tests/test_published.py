"""What is published in leaderboards/ is what the records say."""

from pathlib import Path

import pytest

from ensemble_bench.files import sha256_file
from ensemble_bench.leaderboard import leaderboard_csv
from ensemble_bench.models import checkpoint
from ensemble_bench.records import Record, find_records, read_samples, worst_case

ROOT = Path(__file__).resolve().parents[1]
BOARDS = sorted(path.parent for path in (ROOT / "leaderboards").glob("*/*/records"))
RECORDS = [record for board in BOARDS for record in find_records(board / "records")]


def test_there_is_a_board() -> None:
    assert BOARDS
    assert RECORDS


@pytest.mark.parametrize("board", BOARDS, ids=lambda b: f"{b.parent.name}-{b.name}")
def test_leaderboard_renders_again(board: Path) -> None:
    records = find_records(board / "records")
    assert (board / "leaderboard.csv").read_text(encoding="utf-8") == leaderboard_csv(records, root=board)


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: f"{r.model}-{r.suite}")
def test_weights_are_those_of_the_record(record: Record) -> None:
    assert record.path is not None
    board = record.path.parents[4]
    weights = board / "weights" / f"{record.model.partition('#')[0]}.safetensors"
    assert sha256_file(weights) == record.weights_hash
    info = checkpoint.load(weights).info
    assert info is not None
    assert info.architecture.as_dict() == record.architecture


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: f"{r.model}-{r.suite}")
def test_counts_are_those_of_the_images(record: Record) -> None:
    assert record.path is not None
    samples = read_samples(record.path.parent)
    assert len(samples) == record.n
    assert int(samples["clean"].sum()) == record.clean.correct
    assert int(worst_case(samples).sum()) == record.robust.robust
    for attack in record.attacks:
        assert int(samples[attack.name].fillna(False).sum()) == attack.robust
