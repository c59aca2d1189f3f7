"""Suite crosscheck: three implementations of an attack agree on honest models, and who finds less is named."""

import functools
import itertools
from typing import Any

import pandas as pd
import pytest
import torch
from chance import CONFIDENCE, power, weaker
from small_models import Wrapped, trained

import ensemble_bench as eb
from ensemble_bench import ThreatModel
from ensemble_bench.evaluation.scoring import Scores
from ensemble_bench.evaluation.trust.masking import is_white_box, warnings_of
from ensemble_bench.records import AttackResult, NamedWarning
from ensemble_bench.registry import SUITES

WHO = ("engine", "torchattacks", "art")
# Four attacks, three implementations of each beside both of the others, two norms.
PAIRS = 48
N = 300


def standing(samples: pd.DataFrame, attack: str) -> torch.Tensor:
    """Which images the attack leaves standing."""
    return torch.tensor(samples[attack].to_numpy(dtype=bool))


@pytest.mark.parametrize("threat", [ThreatModel(eps=0.1), ThreatModel(norm="l2", eps=0.5)], ids=lambda t: t.norm)
def test_all_three_agree_on_an_honest_ensemble(threat: ThreatModel) -> None:
    """By chance, where they start at random: all comparisons together raise a false alarm at most once in 10⁶."""
    result = eb.evaluate(trained(members=2), suite="crosscheck", n=N, threat=threat)
    assert result.warnings == ()
    assert tuple(result.per_attack) == SUITES["crosscheck"].attacks
    assert len(result.per_attack) == 12
    for attack in ("bim20", "ifgsm20", "apgd20", "margin20"):
        found = [result.per_attack[f"{attack}@{who}"] or 0.0 for who in WHO]
        for one, other in itertools.permutations(WHO, 2):
            first, second = (standing(result.samples, f"{attack}@{who}") for who in (one, other))
            assert not weaker(first, second, comparisons=PAIRS), f"{attack}: {one} finds less than {other}"
        assert 0.3 < min(found) <= max(found) < result.clean_accuracy - 0.1
    assert result.robust_accuracy <= min(a for a in result.per_attack.values() if a is not None)


def test_a_crippled_implementation_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchattacks

    made = torchattacks.PGD.__init__

    @functools.wraps(made)
    def crippled(self: Any, model: Any, **arguments: Any) -> None:
        made(self, model, **{**arguments, "alpha": 0.0})

    monkeypatch.setattr(torchattacks.PGD, "__init__", crippled)
    result = eb.evaluate(trained(), suite="crosscheck", n=N, threat=ThreatModel(eps=0.1))
    assert {w.name for w in result.warnings} == {"implementations-disagree"}
    said = [w.message for w in result.warnings]
    assert [m.partition(" ")[0] for m in said] == [
        "ifgsm20:",
        "ifgsm20:",
        "margin20:",
        "margin20:",
    ]  # linf BIM is whole
    assert all(m.endswith("torchattacks found less") for m in said)
    left = {a.name: a.robust for a in result.record.attacks}
    assert said[0].startswith(
        f"ifgsm20: torchattacks leaves {left['ifgsm20@torchattacks']} of {N} images standing, "
        f"engine {left['ifgsm20@engine']} (p = "
    )
    # And the comparison of the honest ones has the power to tell.
    for attack, other in itertools.product(("ifgsm20", "margin20"), ("engine", "art")):
        first, second = (standing(result.samples, f"{attack}@{who}") for who in ("torchattacks", other))
        assert weaker(first, second, comparisons=PAIRS)
        assert power(first, second, comparisons=PAIRS) > CONFIDENCE


def test_toolkits_that_add_to_tiny_gradients_are_named() -> None:
    """Under l2 PGDL2 adds 1e-10 to a gradient's length and ART's Auto-PGD 1e-7: confident models stop them."""
    confident = Wrapped(trained(), lambda logits, _: 10 * logits).eval()
    suite = "bim20@engine+bim20@torchattacks+apgd20@engine+apgd20@art"
    result = eb.evaluate(confident, suite=suite, n=150, threat=ThreatModel(norm="l2", eps=0.5))
    assert [(w.name, w.message.partition(" ")[0], w.message.rpartition(": ")[2]) for w in result.warnings] == [
        ("implementations-disagree", "bim20:", "torchattacks found less"),
        ("implementations-disagree", "apgd20:", "art found less"),
    ]


# When to warn


def found(*, cascade: bool = False, **left: int) -> list[NamedWarning]:
    """Warnings of 200 images, of which each attack leaves the first ones standing ("_at_" for "@")."""
    names = {name.replace("_at_", "@"): count for name, count in left.items()}
    samples = pd.DataFrame({"id": range(200), **{name: [i < k for i in range(200)] for name, k in names.items()}})
    attacks = [
        AttackResult(
            name=name,
            settings={},
            n=200,
            robust=count,
            accuracy=count / 200,
            ci_low=0.0,
            ci_high=1.0,
            credit=0,
            seconds=0.0,
        )
        for name, count in names.items()
    ]
    return list(warnings_of(Scores(samples=samples, classes=10), attacks, cascade=cascade))


@pytest.mark.parametrize(("more", "warned"), [(107, False), (108, True)])
def test_two_implementations_disagree_beyond_chance(more: int, warned: bool) -> None:
    # Of 7 images where only one stands p is 2/2⁷ = 0.016, of 8 it is 0.008.
    warnings = found(ifgsm20_at_engine=100, ifgsm20_at_art=more)
    assert [w.message for w in warnings] == warned * [
        "ifgsm20: art leaves 108 of 200 images standing, engine 100 (p = 0.0078): art found less"
    ]
    other_way = found(ifgsm20_at_engine=more, ifgsm20_at_art=100)
    assert [w.message.rpartition(": ")[2] for w in other_way] == warned * ["engine found less"]


@pytest.mark.parametrize(("more", "warned"), [(109, 0), (110, 2)])
def test_more_pairs_need_more_evidence(more: int, warned: int) -> None:
    # Three pairs: p below 0.0033, which 2/2⁹ = 0.0039 is not and 2/2¹⁰ = 0.0020 is.
    warnings = found(apgd20_at_engine=100, apgd20_at_torchattacks=100, apgd20_at_art=more)
    assert [w.name for w in warnings] == ["implementations-disagree"] * warned
    assert all(w.message.endswith("art found less") for w in warnings)


def test_only_the_same_attack_compares_and_only_on_the_same_images() -> None:
    assert found(ifgsm20_at_engine=100, bim20_at_art=150, ifgsm30_at_art=150, ifgsm20=150) == []
    assert found(ifgsm20_at_engine=100, ifgsm20_at_art=150, cascade=True) == []


def test_who_runs_an_attack_does_not_change_what_it_is() -> None:
    assert is_white_box("bim20@art", {})
    assert is_white_box("margin20@engine", {})
    assert [w.name for w in found(ifgsm40_at_art=150, ifgsm20=100)] == ["more-steps-weaker"]
    assert [w.name for w in found(bim1=100, ifgsm20_at_art=150)] == ["single-step-beats-multi-step"]
    assert [w.name for w in found(bim20_at_art=100, apgd20_at_engine=150)] == ["autoattack-weaker-than-pgd"]
