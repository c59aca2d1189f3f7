"""Suite strongest beside AutoAttack itself, on the same images."""

import pytest
from small_models import Wrapped, blackbox_set, images, perceptron, trained

from ensemble_bench import Ensemble, ThreatModel, attacks, evaluate
from ensemble_bench.adapters.autoattack import pyautoattack_standard
from ensemble_bench.records import worst_case
from ensemble_bench.registry import SUITES, Suite

N = 14
THREAT = ThreatModel(eps=32 / 255)


@pytest.mark.slow
@pytest.mark.parametrize("training", ["standard", "adversarial"])
def test_strongest_leaves_nothing_that_autoattack_itself_breaks(training: str) -> None:
    standard = [member for seed in (0, 1) for member in trained(seed=seed, eps=0.0).members]
    # Most images withstand the adversarially trained members, and meet every step: those are of one hidden layer.
    model = Ensemble(standard if training == "standard" else [perceptron(0), perceptron(1)]).eval()
    found = evaluate(model, suite="strongest", n=N, threat=THREAT, blackbox=blackbox_set())
    x, y = images(N)
    _, theirs, _ = pyautoattack_standard(model, x, y, THREAT, batch_size=N)
    standing = worst_case(found.samples)
    assert not (standing & ~theirs.numpy()).any()
    assert found.robust_accuracy <= theirs.double().mean().item()
    assert [a.name for a in found.record.attacks] == list(SUITES["strongest"].attacks)
    assert found.record.clean.correct - sum(a.credit for a in found.record.attacks) == standing.sum()
    assert found.warnings == ()  # also of a model of standard training, whose white-box attacks are close


@pytest.mark.slow
def test_autoattack_itself_misses_images_of_confident_members_that_mora_and_bypass_break() -> None:
    """Standard training, members a hundred times as sure of themselves: their average hides what each of them knows."""
    nets = [*trained(seed=0, eps=0.0).members, *trained(seed=1, eps=0.0).members]
    model = Ensemble([Wrapped(net, lambda logits, x: 100 * logits) for net in nets]).eval()
    (x, y), threat = images(60), ThreatModel(eps=0.1)
    _, standing, _ = pyautoattack_standard(model, x, y, threat, batch_size=60)
    for name in ("mora100", "bypass100"):
        assert attacks.get(name).run(model, x[standing], y[standing], threat).broken.any()


def test_randomised_ensembles_also_meet_the_attacks_on_weighted_members(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = Suite(name="short", attacks=("pgd3",), weighted=("arc3", "eot3"), cascade=True, description="")
    monkeypatch.setitem(SUITES, "short", suite)  # type: ignore[arg-type]
    plain = trained(members=2)
    for model, extra in ((plain, []), (plain.aggregate_as("draw"), ["arc3", "eot3"])):
        found = evaluate(model, suite="short", n=10, threat=THREAT)
        assert list(found.per_attack) == ["pgd3", *extra]
    assert SUITES["strongest"].weighted
