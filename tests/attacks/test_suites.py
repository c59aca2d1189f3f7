"""Suites and sums of suites and attacks."""

import pytest
from small_models import trained

from ensemble_bench import ThreatModel, attacks, evaluate, registry
from ensemble_bench.errors import UnknownNameError
from ensemble_bench.registry import SUITES, Suite, suite_of


@pytest.fixture(autouse=True)
def _suite(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = Suite(name="members", attacks=("ifgsm1", "mora1"), ensembles=("mora1",), cascade=True, description="")
    monkeypatch.setitem(SUITES, "members", suite)  # type: ignore[arg-type]


def test_every_suite_is_registered_and_made_of_attacks_that_exist() -> None:
    assert list(SUITES) == registry.names("suite")
    for suite in SUITES.values():
        names = (*suite.attacks, *suite.weighted, *suite.views)
        made = [attacks.get(name) for name in names if name != "blackbox"]
        assert [a.name for a in made] == [name for name in names if name != "blackbox"]


def test_autoattack_has_the_published_settings() -> None:
    ce, targeted, fab, square = (attacks.get(name).settings() for name in SUITES["autoattack"].attacks)
    assert (ce["steps"], ce["restarts"], ce["loss"], ce["rho"]) == (100, 1, "cross_entropy", 0.75)
    stages = targeted["stages"]
    assert {(s["steps"], s["restarts"], s["loss"]) for s in stages} == {(100, 1, "dlr_targeted")}
    assert [s["target"] for s in stages] == list(range(1, 10))
    assert (fab["name"], square["name"]) == ("fab-t100", "square5000")


@pytest.mark.parametrize("name", ["strongest", "exhaustive"])
def test_the_strongest_suites_hold_autoattack(name: str) -> None:
    assert set(SUITES["autoattack"].attacks) <= set(SUITES[name].attacks)


def test_strongest_holds_quick_on_as_many_images() -> None:
    quick, strongest = SUITES["quick"], SUITES["strongest"]
    assert [name for name in strongest.attacks if name in quick.attacks] == list(quick.attacks)
    assert all(strongest.one_in.get(name, 1) <= quick.one_in.get(name, 1) for name in quick.attacks)


def test_only_ensembles_meet_the_attacks_on_members() -> None:
    suite, found = SUITES["strongest"], {}
    for members in (1, 2):
        run = evaluate(trained(members=members), suite="members", n=4, threat=ThreatModel(eps=0.01))
        found[members] = [attack.name for attack in run.record.attacks]
    assert found == {1: ["ifgsm1"], 2: ["ifgsm1", "mora1"]}
    assert suite.ensembles
    assert set(suite.ensembles) < set(suite.attacks)
    assert suite_of("members+pgd3").ensembles == ("mora1",)
    assert suite_of("members+mora1").ensembles == ()


def test_a_sum_joins_suites_and_attacks() -> None:
    suite = suite_of("paper500+margin30+torchattacks:DIFGSM(steps=20, decay=0.5+0)+pgd500")
    assert suite.attacks == ("ifgsm500", "pgd500", "margin30", "torchattacks:DIFGSM(steps=20, decay=0.5+0)")
    assert not suite.cascade
    assert suite_of("pgd3+quick").cascade
    assert suite_of("pgd3+autoattack").probe
    assert suite_of("pgd3").attacks == ("pgd3",)
    assert suite_of("quick") is SUITES["quick"]


@pytest.mark.parametrize(
    ("text", "named"),
    [("papr", "papr"), ("quick+pdg20", "pdg20"), ("", "''"), ("quick+", r"quick\+"), ("foo:Bar()", "foo:Bar")],
)
def test_wrong_parts_are_named(text: str, named: str) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown suite '?{named}"):
        suite_of(text)


def test_sweep_goes_through_the_classes_with_the_strongest_last() -> None:
    made = attacks.get("sweep10")
    assert [s.name.rpartition("/")[2] for s in made.stages] == ["margin", *(f"target{t}" for t in (*range(2, 10), 1))]
    assert {(s.steps, s.step_size) for s in made.stages} == {(10, 2.0)}
    targets = {s.name: (s.target, s.loss.__name__) for s in made.stages}
    assert targets["sweep10/margin"] == (None, "margin")
    assert targets["sweep10/target4"] == (4, "margin_targeted")
