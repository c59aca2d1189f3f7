"""What the benchmarks found, as it stands in benchmarks/README.md and in README: ratios, and what a number costs."""

import json
import statistics
from collections.abc import Mapping
from typing import Any

from common import AUTOATTACK, RESULTS, in_words, median_ratio

SPEED = {"attack_engine": "20 sign steps of PGD", "training_step": "A training step"}
OWN = {"attack_pass": "A network folded for attacks", "overhead": "On top of the model"}
# Hours, and so not among those that run by default.
LONG = {"suite_cost": "Suites beside AutoAttack"}
BENCHMARKS = SPEED | OWN | LONG
NOTES = {
    "attack_engine": (
        "The attack is `ifgsm20` here; `pgd20` is another one, with Adam. Ours leaves an image once it has fallen, as "
        "scoring does, and the others take all 20 steps on every image: a ratio holds the steps that ours spares, more "
        "of them the more images fall, and what it gains on a pass. A row *all steps*, where there is one, is ours "
        "without leaving any."
    )
}
CLOCK_WORDS = {"wall": "of the wall", "processor": "of the processor, all threads together"}


def page() -> str:
    """benchmarks/README.md, of the files in benchmarks/results."""
    parts = [
        "# Side by side with other toolkits\n",
        "`make bench` makes these tables. All contestants took turns in one process; a ratio is the median over rounds "
        "of the time over that of ensemble-bench in the same round: how many times as fast ours is. The peers run in "
        "PyTorch's default layout, as their users hand them a network, where no other is named.\n",
    ]
    for name, title in BENCHMARKS.items():
        path = RESULTS / f"{name}.json"
        if path.exists():
            noted = [f"{NOTES[name]}\n"] if name in NOTES else []
            found = json.loads(path.read_text(encoding="utf-8"))
            parts += [f"## {title} (`{name}.py`)\n", *noted, *_described(found)]
    return "\n".join(parts)


def summary() -> str:
    """README's sentences on speed: how many times as long as we, in our best setting, peers take for 20 sign steps."""
    found = json.loads((RESULTS / "attack_engine.json").read_text(encoding="utf-8"))
    part = next(part for part in found["parts"] if part["title"].startswith("ensemble2adv"))
    seconds, ours = part["seconds"], part["ours"][-1]
    slower = {peer: median_ratio(times, seconds[ours]) for peer, times in seconds.items() if peer not in part["ours"]}
    told = [f"{peer} {ratio:.1f}" for peer, ratio in slower.items() if "," not in peer or peer == f"{ours}, all steps"]
    return (
        f"PGD of 20 sign steps (`ifgsm20`; our `pgd20` is another attack, with Adam) on {part['title']}, takes, as a "
        f"multiple of the time of {ours} with verdicts in float32: {', '.join(told)} ({found['processor']}, "
        f"{found['threads']} thread). Ours leaves an image once it has fallen; the others take all 20 steps on each.\n"
    )


def costs() -> str:
    """README's table of what a number costs: robust accuracies, and how many times a suite's cost AutoAttack takes."""
    found = json.loads((RESULTS / "suite_cost.json").read_text(encoding="utf-8"))
    parts = found["parts"]
    suites = [name for name in parts[0]["ours"] if "(" not in name]  # not the same search in another precision
    columns = (AUTOATTACK, *suites, *(f"{suite}: passes" for suite in suites), *(f"{suite}: time" for suite in suites))
    images = parts[0]["title"].partition(", ")[2]
    lines = [
        f"What a number costs: robust accuracy (%) under AutoAttack itself and our suites on {images}, and how many "
        f"times a suite's passes and time AutoAttack takes ({found['processor']}, {found['threads']} thread).\n",
        f"| | {' | '.join(columns)} |",
        "| :-- |" + " --: |" * len(columns),
    ]
    for part in parts:
        cells = [f"{100 * part['robust'][name]:.1f}" for name in (AUTOATTACK, *suites)]
        cells += [f"{part['passes'][AUTOATTACK] / part['passes'][suite]:.1f}" for suite in suites]
        cells += [f"{median_ratio(part['seconds'][AUTOATTACK], part['seconds'][suite]):.1f}" for suite in suites]
        lines.append(f"| {part['title'].partition(',')[0]} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _described(found: Mapping[str, Any]) -> list[str]:
    lines = [f"{in_words(found)}. Times are {CLOCK_WORDS[found['clock']]}.\n"]
    for part in found["parts"]:
        seconds, ours, robust, passes = part["seconds"], part["ours"], part.get("robust", {}), part.get("passes", {})
        rounds = len(next(iter(seconds.values())))
        last = (" robust accuracy |" if robust else "") + (" passes |" if passes else "")
        lines += [f"{part['title']}; {f'medians of {rounds} rounds' if rounds > 1 else 'run once'}.\n"]
        lines += ["| | seconds |" + "".join(f" over {name.removeprefix('ensemble-bench ')} |" for name in ours) + last]
        lines += ["| :-- |" + " --: |" * (1 + len(ours) + bool(robust) + bool(passes))]
        for name, times in seconds.items():
            ratios = "".join(f" {median_ratio(times, seconds[base]):.2f} |" for base in ours)
            tail = f" {100 * robust[name]:.2f} |" if robust else ""
            tail += f" {passes[name]:,} |" if passes else ""
            lines.append(f"| {name} | {statistics.median(times):.3f} |{ratios}{tail}")
        lines.append("")
    if peaks := found.get("peak_mib"):
        shown = ", ".join(f"{mib:.0f} MiB for {int(n):,} images" for n, mib in peaks.items())
        lines.append(f"Peak memory of `evaluate --suite quick`: {shown}.\n")
    return lines
