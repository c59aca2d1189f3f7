"""The reports of the kept experiments, and the tables of experiments/README.md: what they hold and lack.

Nothing is measured: what counts are the files of finished trainings and of records. `make pages` writes them.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from ensemble_bench.experiment.plan import TRAIN, Experiment, experiment_of, jobs_of, kept
from ensemble_bench.reports import write_report

# What a seed is in a table of the page, as it is told there.
THERE, CROSSED, MISSING = STATES = ("", "at two commits", "missing")
HOME = Path(__file__).resolve().parents[1] / "experiments"


def planned(dataset: str, data_name: str, *, seeds: int, test_images: int, levels: int) -> Experiment:
    """What `reproduce --preset cpu` plans, in a folder of the repository; a block holds all images of a suite."""
    return experiment_of(
        dataset=dataset,
        data_name=data_name,
        data_dir=None,
        preset="cpu",
        seeds=seeds,
        out=HOME / f"{data_name}-cpu",
        test_images=test_images,
        eps=levels / 255,
        block=test_images,
    )


EXPERIMENTS: Mapping[str, Experiment] = {
    experiment.out.name: experiment
    for experiment in (
        planned("cifar10", "cifar10-jpeg", seeds=3, test_images=10_000, levels=8),
        planned("digits", "digits", seeds=5, test_images=360, levels=32),
    )
}


def write_reports() -> None:
    """The report of every experiment that there is, in its folder."""
    for experiment in EXPERIMENTS.values():
        if experiment.out.exists():
            render(experiment.out, experiment.out / "report")


def render(runs: Path, out: Path) -> None:
    """The report of `runs` in folder `out`, without the files for papers."""
    for path in write_report(runs, out).paths:
        if path.suffix in (".tex", ".pdf"):
            path.unlink()


def state(experiment: Experiment) -> str:
    """A Markdown table: a row a recipe, a column for trainings and one a suite, each seed as THERE, CROSSED or MISSING.

    Of suite `paper` a seed counts once all its checkpoints have been scored.
    """
    jobs = [job for job in jobs_of(experiment) if job.recipe is not None]
    there = kept(jobs)
    found: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
    for job in jobs:
        seeds = found[str(job.recipe), job.column]
        seed = int(job.row.rpartition("-s")[2])
        if job.name not in there:
            seeds[seed] = MISSING
        elif job.column == TRAIN and crossed(Path(job.arguments["out"])):
            seeds[seed] = CROSSED
        else:
            seeds.setdefault(seed, THERE)
    columns = (TRAIN, *experiment.suites)
    lines = ["| | trained | " + " | ".join(experiment.suites) + " |", "| :-- |" + " :-- |" * len(columns)]
    for recipe in dict.fromkeys(recipe for recipe, _ in found):
        cells = (cell(found.get((recipe, column), {})) for column in columns)
        lines.append(f"| {recipe} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def crossed(run: Path) -> bool:
    """Whether a finished training went on at another commit than it began at: no verdict counts it beside others."""
    return bool(json.loads((run / "last.json").read_text(encoding="utf-8")).get("meta", {}).get("crossed_commits"))


def cell(seeds: dict[int, str]) -> str:
    """Seeds by what they are, those that are there first and without a word."""
    told = {word: ", ".join(str(seed) for seed in sorted(seeds) if seeds[seed] == word) for word in STATES}
    return "; ".join(f"{word} {names}".strip() for word, names in told.items() if names) or "–"
