"""`ensemble-bench doctor`: the faults of an environment that would make something fail, each with its mend.

It runs in a broken environment too: it needs only the standard library (and `packaging`, for versions), and tries the
libraries that may end an interpreter in another one.
"""

from ensemble_bench.doctor.checks import examine, render, would_fail
from ensemble_bench.doctor.finding import Finding

__all__ = ["Finding", "examine", "render", "would_fail"]
