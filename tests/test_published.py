"""What is published in leaderboards/ and the README is what the records say, byte for byte."""

from pathlib import Path

import pytest

from ensemble_bench.files import sha256_file
from ensemble_bench.leaderboard import leaderboard_csv
from ensemble_bench.models import checkpoint
from ensemble_bench.records import Record, find_records, read_samples, worst_case
from ensemble_bench.records.table import to_markdown
from ensemble_bench.reports.report import VERDICTS_BELOW
from ensemble_bench.reports.tables.credits import credit_tables
from ensemble_bench.reports.tables.table1 import table_1b, table_1c
from ensemble_bench.reports.verdicts import verdicts

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


def between_markers(path: Path) -> str:
    return path.read_text(encoding="utf-8").partition("<!-- results -->\n")[2].partition("<!-- /results -->")[0]


def test_the_readme_shows_the_records() -> None:
    """Its one table is rendered from the records."""
    assert between_markers(ROOT / "README.md") == to_markdown(table_1b(RECORDS))


def test_the_boards_page_shows_the_records() -> None:
    """Tables and verdicts of leaderboards/README.md are rendered from the records."""
    assert between_markers(ROOT / "leaderboards" / "README.md") == results()


def results() -> str:
    """Tables and verdicts of all boards, as leaderboards/README.md shows them."""
    parts = [to_markdown([*table_1b(RECORDS), *table_1c(RECORDS), *credit_tables(RECORDS)])]
    found = verdicts(RECORDS)
    for where in dict.fromkeys(verdict.where for verdict in found):
        lines = "".join(f"- {verdict}\n" for verdict in found if verdict.where == where)
        parts.append(f"{VERDICTS_BELOW} ({where}):\n\n{lines}")
    return "\n".join(parts)
