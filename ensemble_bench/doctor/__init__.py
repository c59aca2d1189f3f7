"""`ensemble-bench doctor`: what of the environment would make something fail, and its mend.

It runs where other things do not: it needs only the standard library (and `packaging`, for versions), and imports what
may kill an interpreter in another one.
"""

from ensemble_bench.doctor.examination import examine, render, would_fail
from ensemble_bench.doctor.finding import Finding

__all__ = ["Finding", "examine", "render", "would_fail"]
