"""What README shows of the experiment, with the verdicts on the claims, and leaderboards/README.md of the boards."""

from common import ROOT

from ensemble_bench.records import Record, described, find_records
from ensemble_bench.records.table import to_markdown
from ensemble_bench.reports.tables.cost import cost_tables
from ensemble_bench.reports.tables.credits import alone_tables, credit_tables
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
    """Costs, robustness and what each attack broke, of all boards."""
    found = records()
    return to_markdown([*cost_tables(found), *credit_tables(found), *alone_tables(found)])
