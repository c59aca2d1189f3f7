"""What the whole experiment takes at every preset: operations counted from its plan, hours from a measured pace.

    python benchmarks/paper_scale.py --data-dir DIR     (minutes; measures steps and passes of preset cpu)

Counted are the forward and backward passes of every training and of every evaluation that `reproduce --seeds 3` plans
on CIFAR-10, times the operations of the networks. Measured is how many of these a second this processor does in a
training step and in an attack. Into benchmarks/results/paper_scale.json, of which `make pages` renders docs/scale.md.
"""

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import RESULTS, data_dir_of, in_words, save, setting

PRESETS = ("cpu", "small", "modern", "paper")
SEEDS = 3
MEASURED = ("singleadv", "ensemble2adv")
# Operations of a backward pass to the images, and to weights and images, in those of a forward pass.
TO_IMAGES, TO_WEIGHTS = 1, 2
# Passes of a validation an image: clean, then fgsm, ifgsm5, ifgsm7, pgd5 and pgd20, each with a verdict at its end.
VALIDATION = 1 + sum(2 * steps + 1 for steps in (1, 5, 7, 5, 20))
# A second's operations that a training sustains on one GPU: not measured, an assumption that the page names.
GPU, GPUS = 50e12, 8
HOUR = 3600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path)
    save("paper_scale", measure(data_dir_of(parser.parse_args())))


def measure(data_dir: Path | str | None) -> dict[str, Any]:
    """Operations of every preset's plan, and the pace of preset cpu on one thread."""
    from ensemble_bench import data
    from ensemble_bench.experiment.cost import costs_of
    from ensemble_bench.experiment.plan import Experiment, experiment_of, jobs_of
    from ensemble_bench.models import cost

    source = data.open_source("cifar10", data_dir)

    def experiment(preset: str, recipes: Sequence[str] = ()) -> Experiment:
        return experiment_of(
            dataset=source.dataset,
            data_name=source.name,
            data_dir=data_dir and Path(data_dir),
            preset=preset,
            seeds=SEEDS,
            out=Path("runs/scale"),
            test_images=len(source.split("test")),
            eps=source.default_eps,
            block=10**9,
            recipes=recipes,
        )

    chosen = experiment("cpu", MEASURED)
    costs = costs_of(chosen, jobs_of(chosen), frozenset(), threads=1)
    paces = []
    for recipe in MEASURED:
        run, plan = chosen.run_name(recipe, 0), plan_of(recipe, "cpu", source)
        trained, scored = costs[f"train {run}"], costs[f"quick {run}"]
        pace = {"recipe": recipe, "seconds_a_step": trained.seconds / trained.steps}
        pace |= {"operations_a_step": operations_of(plan) / plan.steps}
        pace |= {"seconds_a_pass": scored.seconds / scored.passes, "operations_a_pass": cost.flops(plan.architecture)}
        paces.append(pace)
    planned = {preset: planned_at(preset, source, jobs_of(experiment(preset))) for preset in PRESETS}
    return {**setting(), "clock": "wall", "data": source.name, "presets": planned, "paces": paces}


def plan_of(recipe: str, preset: str, source: Any) -> Any:
    """The plan of a training; of a recipe that joins networks, that of one of these."""
    from ensemble_bench import registry
    from ensemble_bench.training.hardware import resolve_device
    from ensemble_bench.training.plan import resolve

    found = registry.resolve("recipe", recipe)
    trained = registry.resolve("recipe", found.of) if found.of else found
    return resolve(trained, source, preset=preset, seed=0, device=resolve_device("cpu"))


def operations_of(plan: Any) -> int:
    """Operations of a training with its validations."""
    from ensemble_bench.models import cost
    from ensemble_bench.training.attack import steps_of
    from ensemble_bench.training.objectives import number_of_terms

    settings, adversarial = plan.settings, plan.recipe.adversarial
    attacked = steps_of(settings.train_attack) * (1 + TO_IMAGES) if adversarial else 0
    terms = number_of_terms(plan.objective, adversarial=adversarial, clean_share=settings.clean_share)
    images = plan.steps * settings.batch_size * (attacked + terms * (1 + TO_WEIGHTS))
    validations = -(-plan.steps // settings.evaluate_every)
    return (images + validations * settings.evaluate_n * VALIDATION) * cost.flops(plan.architecture)


def planned_at(preset: str, source: Any, jobs: Sequence[Any]) -> dict[str, Any]:
    """Network, steps and operations of the experiment at a preset: of all trainings, and of evaluations at most."""
    from dataclasses import replace

    from ensemble_bench import registry
    from ensemble_bench.evaluation.estimate import bound_of_suite
    from ensemble_bench.models import cost

    single = plan_of("singleadv", preset, source)
    counted: dict[str, int] = {"trainings": 0, "training": 0, "evaluation": 0}
    # Jobs of one kind cost the same, whatever their seed.
    kinds = Counter(
        (job.recipe, job.call, job.column, job.arguments.get("n"), len(job.arguments.get("eps", ())))
        for job in jobs
        if job.recipe
    )
    for (recipe, call, suite, n, radii), times in kinds.items():
        joins, plan = registry.resolve("recipe", recipe).joins, plan_of(recipe, preset, source)
        if call != "train":
            whole = replace(plan.architecture, members=joins) if joins else plan.architecture
            bound = bound_of_suite(suite, whole, weighted=whole.gated)
            counted["evaluation"] += times * radii * round(n * bound) * cost.flops(whole)
        elif not joins:
            counted["trainings"] += times
            counted["training"] += times * operations_of(plan)
    return {
        "network": f"WRN-{single.architecture.depth}-{single.architecture.width:g}",
        "parameters": cost.parameters(single.architecture),
        "steps": single.steps,
        "one": operations_of(single),
        **counted,
    }


def page() -> str:
    """docs/scale.md, of what was saved."""
    found: Mapping[str, Any] = json.loads((RESULTS / "paper_scale.json").read_text(encoding="utf-8"))
    paces = found["paces"]
    step = max(pace["operations_a_step"] / pace["seconds_a_step"] for pace in paces)
    attack = max(pace["operations_a_pass"] / pace["seconds_a_pass"] for pace in paces)
    parts = [
        "# What it takes at paper scale\n",
        f"The whole experiment on CIFAR-10, `ensemble-bench reproduce --seeds {SEEDS}`, counted from its plan: all "
        "recipes, the suites and images of `experiment/sizes.py`. Operations are those of convolutions and linear "
        "layers, a multiply-add as two; a backward pass to the images counts as a forward pass, one to the weights as "
        "two. Evaluations are upper bounds, as if every image were classified correctly and withstood every attack: "
        "with a third of the images standing they take about half. The two surrogates of the black-box set are left "
        "out. `benchmarks/paper_scale.py` made this page.\n",
        table(
            ("preset", "network", "parameters", "steps", "one singleadv", "trainings", "all of them", "evaluations"),
            (
                (
                    preset,
                    plan["network"],
                    f"{plan['parameters'] / 1e6:.2f} M",
                    f"{plan['steps']:,}",
                    peta(plan["one"]),
                    str(plan["trainings"]),
                    peta(plan["training"]),
                    peta(plan["evaluation"]),
                )
                for preset, plan in found["presets"].items()
            ),
        ),
        f"In units of 10¹⁵ operations. Measured, preset `cpu`, batches of 128: {in_words(found)}.\n",
        table(
            ("recipe", "a step, s", "10⁹ operations a second", "a pass of an image, ms", "10⁹ operations a second"),
            (
                (
                    pace["recipe"],
                    f"{pace['seconds_a_step']:.3f}",
                    f"{pace['operations_a_step'] / pace['seconds_a_step'] / 1e9:.0f}",
                    f"{1000 * pace['seconds_a_pass']:.3f}",
                    f"{pace['operations_a_pass'] / pace['seconds_a_pass'] / 1e9:.0f}",
                )
                for pace in paces
            ),
        ),
        f"Hours, then: on one such core, if larger networks keep the higher of these paces; on one GPU, if it sustains "
        f"{GPU / 1e12:.0f} · 10¹² operations a second (an assumption, not a measurement: a twentieth of what the data "
        "sheet of an H200 promises for bf16; hours go with its inverse); on a Ray cluster of "
        f"{GPUS} of these, where trainings and blocks of images are tasks of their own and none waits for another for "
        "long.\n",
        table(
            ("preset", "one core: trainings", "evaluations", "one GPU: trainings", "evaluations", f"{GPUS} GPUs: all"),
            (
                (
                    preset,
                    hours(plan["training"] / step),
                    hours(plan["evaluation"] / attack),
                    hours(plan["training"] / GPU),
                    hours(plan["evaluation"] / GPU),
                    hours((plan["training"] + plan["evaluation"]) / GPU / GPUS),
                )
                for preset, plan in found["presets"].items()
            ),
        ),
    ]
    return "\n".join(parts)


def table(columns: Sequence[str], rows: Any) -> str:
    """A Markdown table, numbers to the right."""
    lines = [columns, [":--", *["--:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def peta(operations: float) -> str:
    """Operations in units of 10¹⁵, two digits."""
    return rounded(operations / 1e15)


def hours(seconds: float) -> str:
    """Hours, two digits."""
    return f"{rounded(seconds / HOUR)} h"


def rounded(value: float) -> str:
    """Two digits, without an exponent."""
    return f"{float(f'{value:.2g}'):,.10g}"


if __name__ == "__main__":
    main()
