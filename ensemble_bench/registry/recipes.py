"""Recipes: which model is trained, and whether adversarially (Grefenstette et al. 2018, section 4.1, and controls)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ensemble_bench.errors import InvalidValueError, UnknownNameError, check_kind, check_whole


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One row of the comparison.

    `members` networks are trained as one model, on clean images and, if `adversarial`, on attacks on what `attacked`
    names: the whole "ensemble", or its "members", each on its own. A single network with `width_times` above 1 is
    widened until it costs that many members. `gated` weights the members by a small network. With `joins` above 0
    nothing is trained as one model: that many runs of the recipe `of`, of consecutive seeds, are joined at test time.
    `settings` replace those of the preset, field by field (see presets.TrainingSettings), such as its network.
    `look` is the colour and the dashes of its lines in figures.
    `objective` names what is minimised (see objectives.OBJECTIVES), unless a run asks for another. One without a name
    is called after what it does: Recipe(members=3) is "ensemble3adv". Raises InvalidValueError for a value that fits
    none.
    """

    name: str = ""
    description: str = ""
    members: int = 1
    adversarial: bool = True
    attacked: str = "ensemble"
    width_times: int = 1
    gated: bool = False
    joins: int = 0
    of: str | None = None
    objective: str = "ensemble"
    look: tuple[str, Any] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in (("members", 1), ("width_times", 1), ("joins", 0)):
            check_whole(f"recipe's {name}", getattr(self, name), least=least, most=64)
        for name in ("name", "description", "objective"):
            check_kind(f"recipe's {name}", getattr(self, name), str)
        for name in ("adversarial", "gated"):
            check_kind(f"recipe's {name}", getattr(self, name), bool)
        check_kind("recipe's settings", self.settings, Mapping)
        if self.of is not None:
            check_kind("recipe's of", self.of, str)
        if not isinstance(self.attacked, str) or self.attacked not in ATTACKED:
            raise UnknownNameError("recipe's attacked", self.attacked, ATTACKED)
        if bool(self.joins) != (self.of is not None):
            raise InvalidValueError(f"recipe joins {self.joins} runs of {self.of!r}: give joins and of together")
        if self.members < 2 and (self.gated or self.attacked == "members"):
            raise InvalidValueError(f"recipe's members is {self.members}: to gate or attack them takes at least 2")
        if self.members > 1 and self.width_times > 1:
            raise InvalidValueError(f"recipe's members is {self.members}: only a single network is widened")
        if not self.name:
            object.__setattr__(self, "name", self._own_name())
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", self.name):
            raise InvalidValueError(
                f"recipe's name is {self.name!r}: expected letters, digits, _ and -, a letter first"
            )

    def joined_seeds(self, seed: int) -> list[int]:
        """Seeds of the networks that it joins: k·seed … k·seed + k − 1, so that no two ensembles share one."""
        return [self.joins * seed + i for i in range(self.joins)]

    def _own_name(self) -> str:
        """A name that says what it does, that of a recipe of ours where it does the same."""
        for ours in RECIPES.values():
            if replace(self, name=ours.name, description=ours.description, look=ours.look) == ours:
                return ours.name
        if self.joins:
            return f"joined{self.joins}-{self.of}"
        if self.members == 1 and self.width_times == 1:
            name = "singleadv" if self.adversarial else "baseline"
        else:
            size = f"ensemble{self.members}" if self.members > 1 else f"wide{self.width_times}"
            name = f"{size}{'adv' if self.adversarial else ''}"
        parts = [name, *(["gated"] if self.gated else []), *(["each"] if self.attacked == "members" else [])]
        parts += [self.objective] if self.objective != "ensemble" else []
        parts += ["own"] if self.settings else []
        return "-".join(parts)


ATTACKED = ("ensemble", "members")
# Okabe and Ito's colours, which stay apart for colour-blind readers, and more: a recipe a hue, another than that of its
# bigger sibling. Dashes: trained without attacks; dots: trained apart.
SOLID, DASHED, DOTTED = "-", (0, (5, 2)), (0, (1, 1.2))

# In the order of the tables: that of the paper's Table 1, the controls that it lacks beside what they control for.
_ALL = (
    Recipe(
        name="baseline",
        description="one network, clean images only",
        adversarial=False,
        look=("#000000", DASHED),
    ),
    Recipe(
        name="ensemble2",
        description="two networks as one model, clean images only",
        members=2,
        adversarial=False,
        look=("#7A7A7A", DASHED),
    ),
    Recipe(
        name="ensemble4",
        description="four networks as one model, clean images only",
        members=4,
        adversarial=False,
        look=("#A0724A", DASHED),
    ),
    Recipe(
        name="singleadv",
        description="one network, adversarially trained",
        look=("#E69F00", SOLID),
    ),
    Recipe(
        name="doubleadv",
        description="one wider network at the cost of two, adversarially trained",
        width_times=2,
        look=("#D55E00", SOLID),
    ),
    Recipe(
        name="quadadv",
        description="one wider network at the cost of four, adversarially trained",
        width_times=4,
        look=("#882255", SOLID),
    ),
    Recipe(
        name="ensemble2adv",
        description="two networks adversarially trained as one model",
        members=2,
        look=("#0072B2", SOLID),
    ),
    Recipe(
        name="ensemble4adv",
        description="four networks adversarially trained as one model",
        members=4,
        look=("#5B2C9F", SOLID),
    ),
    Recipe(
        name="jointattack2adv",
        description="two networks, the ensemble attacked, each member's own loss learned",
        members=2,
        objective="member-mean",
        look=("#56B4E9", SOLID),
    ),
    Recipe(
        name="jointloss2adv",
        description="two networks, each member attacked, the loss of the mean learned",
        members=2,
        attacked="members",
        look=("#8A7A00", SOLID),
    ),
    Recipe(
        name="separate2adv",
        description="two singleadv of different seeds, joined at test time",
        joins=2,
        of="singleadv",
        look=("#009E73", DOTTED),
    ),
    Recipe(
        name="separate4adv",
        description="four singleadv of different seeds, joined at test time",
        joins=4,
        of="singleadv",
        look=("#7AB317", DOTTED),
    ),
    Recipe(
        name="gated2adv",
        description="ensemble2adv whose members a small gating network weights per image",
        members=2,
        gated=True,
        look=("#CC79A7", SOLID),
    ),
)
RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in _ALL}
