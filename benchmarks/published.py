"""What README shows of the experiment, and leaderboards/README.md of the boards: tables, and verdicts on the claims."""

from common import ROOT

from ensemble_bench.records import Record, described, find_records
from ensemble_bench.records.table import to_markdown
from ensemble_bench.reports.report import verdict_lists
from ensemble_bench.reports.tables.cost import cost_tables
from ensemble_bench.reports.tables.credits import credit_tables
from ensemble_bench.reports.tables.table1 import table_1b, table_1c
from ensemble_bench.reports.tables.verdicts import verdict_summaries
from ensemble_bench.reports.verdicts import verdicts

EXPERIMENT = ROOT / "experiments/cifar10-jpeg-cpu"
SUITE = "quick"
BOARDS = sorted(path.parent for path in (ROOT / "leaderboards").glob("*/*/records"))


def records() -> list[Record]:
    """The records of all boards."""
    return [record for board in BOARDS for record in find_records(board / "records")]


def in_readme() -> str:
    """The experiment under SUITE: its recipes on the most images, and the verdicts."""
    found = [described(record) for record in find_records(EXPERIMENT)]
    costs = next(table for table in cost_tables(found) if table.about["suite"] == SUITE)
    judged = [verdict for verdict in verdicts(found) if verdict.family.suite == SUITE]
    return to_markdown([costs, *verdict_summaries(judged)])


def in_leaderboards() -> str:
    """Tables and verdicts of all boards."""
    found = records()
    tables = [*table_1b(found), *table_1c(found), *credit_tables(found)]
    return "\n".join([to_markdown(tables), *verdict_lists(verdicts(found))])
