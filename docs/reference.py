"""Reference that is rendered from code: the command line's at every build of the site, the attacks' by `make pages`."""

import torch
import typer.main
from typer.cli import get_docs_for_click

from ensemble_bench import attacks, registry
from ensemble_bench.cli import app
from ensemble_bench.evaluation.estimate import passes_an_image

STEPS = 100
NETWORK = torch.nn.Flatten()  # stands for any: what an attack costs is a matter of its settings


def command_line() -> str:
    """The options of every command, without the program's own heading."""
    command = typer.main.get_command(app)
    return get_docs_for_click(obj=command, ctx=typer.Context(command), name="ensemble-bench").partition("\n")[2]


def attack_table() -> str:
    """A row an attack: what it does, the loss it climbs, and the most passes it spends on an image of ten classes."""
    lines = ["| attack | what it does | climbs | passes |", "| :-- | :-- | :-- | --: |"]
    for name, card in registry.ATTACKS.items():
        cells = [f"`{name}{'N' * card.takes_steps}`", card.description, _climbs(card)]
        made = attacks.get(f"{name}{STEPS}") if card.takes_steps else None
        lines.append(f"| {' | '.join((*cells, f'{passes_an_image(made, NETWORK, classes=10):,}' if made else ''))} |")
    return "\n".join(lines) + "\n"


def _climbs(card: registry.AttackCard) -> str:
    if card.ascends:
        return ", ".join(card.ascends)
    return "nothing: no gradient" if card.warning else ""
