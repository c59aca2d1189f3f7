"""Reports: tables, figures and verdicts, rendered from records and curves and from nothing else."""

from ensemble_bench.reports.parts import parts_of
from ensemble_bench.reports.report import Report, write_report

__all__ = ["Report", "parts_of", "write_report"]
