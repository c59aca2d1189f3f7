"""Names of attacks, suites, data sets and radii: each has one spelling, and any other text gets one line."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ensemble_bench import attacks, registry
from ensemble_bench.attacks.foreign.external import parse
from ensemble_bench.errors import EnsembleBenchError, InvalidValueError
from ensemble_bench.records import Threat
from ensemble_bench.records.text import natural
from ensemble_bench.records.threat import parse_eps
from ensemble_bench.registry.places import check_data, homeless, models_folder, place_of
from ensemble_bench.submissions.format.claims import check_name
from ensemble_bench.submissions.format.limits import Limits
from ensemble_bench.training.changes import slug

FAMILIES = st.sampled_from(sorted(registry.ATTACKS))
LINE = 2000
ascii_texts = st.text(st.characters(max_codepoint=127), max_size=30)


@st.composite
def attack_names(draw: st.DrawFn) -> str:
    family = draw(FAMILIES)
    return f"{family}{draw(st.integers(1, 10**6))}" if registry.ATTACKS[family].takes_steps else family


suites = st.lists(st.sampled_from(registry.names("suite")) | attack_names(), min_size=1, max_size=4, unique=True)


def near(names: list[str]) -> st.SearchStrategy[str]:
    """Texts of any kind, and names with a piece of another text in them."""
    odd = st.text(max_size=8) | st.sampled_from(
        ["+", "@", ":", "-", "?", "/", "(", "９", "\n", "\0", "\ud800", "9" * 4400]
    )
    mixed = st.tuples(st.sampled_from(names), odd, st.sampled_from(["", *names])).map("".join)
    return st.text(max_size=20) | odd | mixed


@given(name=attack_names())
def test_an_attack_is_called_what_its_name_is_split_into(name: str) -> None:
    family, steps = registry.split_steps(name)
    canonical = family if steps is None else f"{family}{steps}"
    assert registry.split_steps(canonical) == (family, steps)
    assert registry.split_implementation(f"{name}@art") == (name, "art")


@settings(max_examples=40)
@given(name=attack_names().filter(lambda name: name != "blackbox"))
def test_an_attack_knows_its_own_name(name: str) -> None:
    made = attacks.get(name)
    assert made.name == name
    assert attacks.get(made.name) == made


@given(parts=suites)
def test_a_sum_of_suites_is_its_parts(parts: list[str]) -> None:
    text = "+".join(parts)
    assert registry.split_suite(text) == parts
    suite = registry.suite_of(text)
    assert suite.name == text
    assert registry.suite_of(suite.name) == suite
    assert len(set(suite.attacks)) == len(suite.attacks)
    expected = [name for part in parts for name in registry.suite_of(part).attacks]
    assert list(suite.attacks) == list(dict.fromkeys(expected))


@given(parts=suites)
def test_a_suite_without_its_black_box_attack_has_none(parts: list[str]) -> None:
    if parts == ["blackbox"]:
        return
    left = registry.without_blackbox("+".join(parts))
    assert registry.without_blackbox(left) == left
    assert "blackbox" not in registry.suite_of(left).attacks


values = st.integers(-(10**6), 10**6) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | ascii_texts
literals = values.map(repr) | st.tuples(st.integers(0, 255), st.integers(1, 255)).map(
    lambda pair: f"{pair[0]} /{pair[1]}"
)


@settings(max_examples=60)
@given(
    arguments=st.dictionaries(st.sampled_from(["eps", "alpha", "steps"]), literals, max_size=3),
    space=st.sampled_from(["", " "]),
)
def test_a_toolkits_attack_has_one_spelling(arguments: dict[str, str], space: str) -> None:
    listed = f",{space}".join(f"{space}{name} = {value}" for name, value in arguments.items())
    try:
        made = parse(f" torchattacks :PGD({listed})")
    except EnsembleBenchError as error:  # a value that the toolkit's attack cannot have
        assert_is_a_line(error)
        return
    assert parse(made.name) == made
    assert parse(made.name).name == made.name


@given(
    threat=st.builds(
        Threat, norm=st.sampled_from(["linf", "l2"]), eps=st.integers(1, 10**4).map(lambda level: level / 255)
    )
)
def test_a_radius_in_255ths_is_read_back_from_its_text(threat: Threat) -> None:
    assert Threat.parse(threat.eps_text, threat.norm) == threat
    assert str(threat) == f"{threat.norm} {threat.eps_text}"
    # Names of folders, from which none is told apart by a point or a slash.
    assert threat.slug.replace("-", "").replace("_", "").isalnum()


@pytest.mark.parametrize(
    ("eps", "text"), [(1.0, "1"), (3.0, "3"), (0.5, "0.5"), (128 / 255, "128/255"), (8 / 255, "8/255")]
)
def test_a_whole_radius_is_no_fraction(eps: float, text: str) -> None:
    assert str(Threat(norm="l2", eps=eps)) == f"l2 {text}"


@given(threat=st.builds(Threat, norm=st.just("l2"), eps=st.floats(1e-6, 1e6)))
def test_any_other_is_read_back_to_the_six_digits_of_its_text(threat: Threat) -> None:
    again = Threat.parse(threat.eps_text, threat.norm)
    assert again.eps == pytest.approx(threat.eps, rel=1e-5)
    assert Threat.parse(again.eps_text, again.norm) == again


paths = st.text(st.characters(exclude_characters="?\0", exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(
    kind=st.sampled_from(["folder", "parquet"]),
    path=paths,
    sizes=st.fixed_dictionaries({}, optional={"resize": st.integers(1, 300), "crop": st.integers(1, 300)}),
)
def test_a_data_sets_place_is_read_back_from_its_name(kind: str, path: str, sizes: dict[str, int]) -> None:
    options = "&".join(f"{name}={value}" for name, value in sizes.items())
    name = f"{kind}:{path}{'?' if options else ''}{options}"
    if sizes.get("crop", 1) > sizes.get("resize", 300):
        with pytest.raises(InvalidValueError, match="crop is"):
            check_data(name)
        return
    canonical = check_data(name)
    assert check_data(canonical) == canonical
    place = place_of(canonical)
    assert place is not None
    assert place == place_of(place.text)
    assert place.sizes == sizes
    assert homeless(homeless(place.text)) == homeless(place.text)


@given(text=st.text(max_size=120))
def test_records_of_a_model_from_elsewhere_lie_below_their_folder(text: str) -> None:
    folder = models_folder(Path("runs"), text)
    assert folder == Path("runs") or folder.parent == Path("runs")
    assert folder == Path("runs") or models_folder(Path("runs"), folder.name) == folder


@given(changes=st.dictionaries(st.text(max_size=10), st.text(max_size=60) | st.integers() | st.booleans(), max_size=4))
def test_what_a_run_changes_is_a_part_of_a_files_name(changes: dict[str, object]) -> None:
    name = slug(changes, 40)
    assert len(name) <= 40
    assert name == "" or check_name(f"run{name}0") == f"run{name}0"


@given(text=st.text("ab", max_size=3), numbers=st.lists(st.integers(0, 10**12), max_size=6, unique=True))
def test_names_are_in_the_order_of_their_numbers(text: str, numbers: list[int]) -> None:
    names = [f"{text}{number}{text}" for number in numbers]
    assert sorted(names, key=natural) == [f"{text}{number}{text}" for number in sorted(numbers)]
    assert sorted([*names, f"{text}{'9' * 5000}"], key=natural)[-1] == f"{text}{'9' * 5000}"  # more than int() takes


def assert_is_a_line(error: EnsembleBenchError) -> None:
    assert str(error).isprintable()
    assert 0 < len(str(error)) <= LINE


KINDS: dict[str, Callable[[str], object]] = {
    **{kind: lambda text, kind=kind: registry.check(kind, text) for kind in registry.KINDS},
    "steps": registry.split_steps,
    "implementation": registry.split_implementation,
    "sum of suites": registry.suite_of,
    "suite without": registry.without_blackbox,
    "attack by name": attacks.get,
    "toolkit's attack": parse,
    "place of data": check_data,
    "radius": parse_eps,
    "submission": check_name,
}
NAMES = [
    *("pgd20", "ifgsm5", "strongest", "quick", "digits", "ensemble2adv", "torchattacks:PGD(eps=8/255)", "art:FGSM"),
    *("folder:x?resize=32", "pgd20@art", "8/255", "margin-t9", "strongest-blackbox", "pgd", "tiny"),
]


@settings(max_examples=120)
@pytest.mark.parametrize("kind", KINDS)
@given(text=near(NAMES))
@example(text="pgd" + "9" * 4400)
@example(text="folder:x?resize=" + "9" * 4400)
@example(text="folder:x?resize=²")
@example(text="torchattacks:PGD(eps=" + "-" * 9000 + "1)")
@example(text="torchattacks:PGD(eps=1e999)")
@example(text="9" * 4400)
@example(text="\ud800")
@example(text="x" * 100_000)
def test_any_other_text_gets_one_line(kind: str, text: str) -> None:
    try:
        KINDS[kind](text)
    except EnsembleBenchError as error:
        assert_is_a_line(error)


def test_the_longest_suite_that_is_claimed_is_one_that_can_be_named() -> None:
    assert registry.split_steps(f"pgd{Limits().max_steps}") == ("pgd", Limits().max_steps)
