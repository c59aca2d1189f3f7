"""What README and leaderboards/README.md show of the published records: tables, and verdicts on the paper's claims."""

from common import ROOT

from ensemble_bench.records import Record, find_records
from ensemble_bench.records.table import to_markdown
from ensemble_bench.reports.report import verdict_lists
from ensemble_bench.reports.tables.credits import credit_tables
from ensemble_bench.reports.tables.table1 import table_1b, table_1c
from ensemble_bench.reports.verdicts import verdicts

BOARDS = sorted(path.parent for path in (ROOT / "leaderboards").glob("*/*/records"))


def records() -> list[Record]:
    """The records of all boards."""
    return [record for board in BOARDS for record in find_records(board / "records")]


def in_readme() -> str:
    """README's one table of results."""
    return to_markdown(table_1b(records()))


def in_leaderboards() -> str:
    """Tables and verdicts of all boards."""
    found = records()
    tables = [*table_1b(found), *table_1c(found), *credit_tables(found)]
    return "\n".join([to_markdown(tables), *verdict_lists(verdicts(found))])
