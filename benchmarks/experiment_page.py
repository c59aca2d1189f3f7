"""The report of the kept experiment, and the table of experiments/README.md: what it holds and lacks.

    python benchmarks/experiment_page.py

The plan is that of `ensemble-bench reproduce --dataset cifar10 --preset cpu --seeds 3`. Nothing is measured: what
counts are the files of finished trainings and of records.
"""

from collections import defaultdict
from pathlib import Path

from ensemble_bench.experiment.plan import TRAIN, Experiment, experiment_of, jobs_of, kept
from ensemble_bench.reports import write_report

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "experiments/README.md"
START, END = "<!-- state -->\n", "<!-- /state -->"
NAME, PRESET, SEEDS, TEST_IMAGES = "cifar10-jpeg", "cpu", 3, 10_000


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.partition(START)[0], text.partition(END)[2]
    PAGE.write_text(before + START + state(planned()) + END + after, encoding="utf-8")
    render(planned().out, planned().out / "report")


def render(runs: Path, out: Path) -> None:
    """The report of `runs` in folder `out`, without the files for papers."""
    for path in write_report(runs, out).paths:
        if path.suffix in (".tex", ".pdf"):
            path.unlink()


def planned() -> Experiment:
    """The experiment as `reproduce` plans it, in the folder of the repository; a block holds all images of a suite."""
    return experiment_of(
        dataset="cifar10",
        data_name=NAME,
        data_dir=None,
        preset=PRESET,
        seeds=SEEDS,
        out=ROOT / "experiments" / f"{NAME}-{PRESET}",
        test_images=TEST_IMAGES,
        block=TEST_IMAGES,
    )


def state(experiment: Experiment) -> str:
    """A Markdown table: a row a recipe, a column for trainings and one a suite, the seeds that are there and are not.

    Of suite `paper` a seed counts once all its checkpoints have been scored.
    """
    jobs = [job for job in jobs_of(experiment) if job.recipe is not None]
    there = kept(jobs)
    found: dict[tuple[str, str], dict[int, bool]] = defaultdict(dict)
    for job in jobs:
        seeds = found[str(job.recipe), job.column]
        seed = int(job.row.rpartition("-s")[2])
        seeds[seed] = seeds.get(seed, True) and job.name in there
    columns = (TRAIN, *experiment.suites)
    lines = ["| | trained | " + " | ".join(experiment.suites) + " |", "| :-- |" + " :-- |" * len(columns)]
    for recipe in dict.fromkeys(recipe for recipe, _ in found):
        cells = (cell(found.get((recipe, column), {})) for column in columns)
        lines.append(f"| {recipe} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def cell(seeds: dict[int, bool]) -> str:
    """Seeds that are there, and those that are missing."""
    there, missing = (", ".join(str(s) for s in sorted(seeds) if seeds[s] is done) for done in (True, False))
    return "; ".join(filter(None, (there, missing and f"missing {missing}"))) or "–"


if __name__ == "__main__":
    main()
