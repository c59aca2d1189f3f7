"""Plugins: names of other packages are found by their entry points, and fail in one line where they cannot be used."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from small_models import trained
from synthetic_runs import build_runs
from torch import nn

from ensemble_bench import attacks, data, evaluate, registry
from ensemble_bench.cli import run
from ensemble_bench.errors import InvalidValueError, UnknownNameError
from ensemble_bench.leaderboard.board import write_leaderboard
from ensemble_bench.leaderboard.site.entries import FIELDS
from ensemble_bench.models.architecture import Architecture
from ensemble_bench.models.build import build
from ensemble_bench.records.samples import SAMPLE_COLUMNS
from ensemble_bench.registry import plugins, suite_of
from ensemble_bench.threat import ThreatModel
from ensemble_bench.training.presets import PRESETS
from ensemble_bench.training.provenance import versions

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "plugin-example"
FROM = "(from ensemble-bench-example 0.1.0)"

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a package on the path: `install("a-package", {kind: {name: value}}, code)`; its module is a_package."""
    site, modules = tmp_path / "site", set(sys.modules)
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def put(package: str, names: dict[str, dict[str, str]], code: str = "") -> None:
        module = package.replace("-", "_")
        folder = site / f"{module}-1.5.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.5\n")
        groups = [[f"[{plugins.GROUPS[kind]}]", *(f"{k} = {v}" for k, v in of.items())] for kind, of in names.items()]
        (folder / "entry_points.txt").write_text("\n".join(line for group in groups for line in group))
        (site / f"{module}.py").write_text(code)
        plugins._entries.cache_clear()

    yield put
    plugins._entries.cache_clear()
    for name in set(sys.modules) - modules:
        if str(site) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def error_of(call: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr that the command line ends with."""
    assert run(call) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_example_package_is_listed_trained_and_evaluated(tmp_path: Path) -> None:
    """Installed as a user does, but from a copy, since building writes beside the sources."""
    source, site = tmp_path / "source", tmp_path / "site"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("*.egg-info", "build", "__pycache__"))
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    pip = [sys.executable, "-m", "pip", "install", "-q", *offline, "--target", str(site), str(source)]
    subprocess.run(pip, check=True, capture_output=True, text=True)

    def ensemble_bench(*arguments: str) -> str:
        command = [sys.executable, "-m", "ensemble_bench", *arguments]
        path = os.pathsep.join([str(site), str(ROOT)])
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    shown = ensemble_bench("list")
    for label in ("mifgsm[N]", "stripe_net", "stripes", "stripes2adv", "momentum", "trades4", "brief"):
        assert re.search(rf"^  {re.escape(label)}  +\S.*{re.escape(FROM)}$", shown, re.MULTILINE), label
    assert "stripes2adv" in ensemble_bench("train", "--help")

    choices = ["--preset", "brief", "--objective", "trades4", "--max-steps", "20", "--out", "run"]
    ensemble_bench("train", "stripes2adv", "--dataset", "stripes", *choices)
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert told["architecture"]["backbone"] == told["settings"]["network"]["backbone"] == "stripe_net"
    assert (told["preset"], told["objective"], told["settings"]["evaluate_every"]) == ("brief", "trades4", 10)
    assert told["settings"]["learning_rate"] == PRESETS["tiny"].on("digits").learning_rate

    ensemble_bench("evaluate", "run", "--suite", "momentum+mifgsm", "--n", "40")
    (path,) = tmp_path.glob("run/evaluations/*/record.json")
    record = json.loads(path.read_text())
    assert (record["dataset"], record["recipe"], record["n"]) == ("stripes", "stripes2adv", 40)
    assert [attack["name"] for attack in record["attacks"]] == ["mifgsm20", "ifgsm20", "mifgsm"]
    settings = [attack["settings"] for attack in record["attacks"]]
    assert [made["steps"] for made in settings] == [20, 20, 10]
    assert [made.get("decay") for made in settings] == [1.0, None, 1.0]
    assert record["versions"]["ensemble_bench_example"] == told["versions"]["ensemble_bench_example"] == "0.1.0"


def test_docs_name_every_group() -> None:
    shown = (ROOT / "docs" / "plugins.md").read_text()
    rows = dict(re.findall(r"^\| ([a-z ]+) \| `([a-z_.]+)` \|", shown, re.MULTILINE))
    assert rows == plugins.GROUPS


JITTER = """
from dataclasses import dataclass
from typing import ClassVar
from ensemble_bench.attacks.pgd import PGD

@dataclass(frozen=True, kw_only=True)
class Invert(PGD):
    gradient_free: ClassVar[bool] = True

    def step(self, s, value, grad, threat):
        s["x_adv"] = threat.project(1 - s["x"], s["x"])

def invert():
    return Invert(name="invert", steps=1, step_size=1.0, random_start=False)

def jitter(steps=3, **settings):
    return PGD(**{"name": "whatever", "steps": steps, "step_size": 1.0, **settings})

def fixed(**settings):
    return jitter(5, **settings)

def counted(steps, **settings):
    return jitter(steps, **settings)

def nothing(steps=1):
    return "nothing"
"""
JITTERS = {name: f"jitters:{name}" for name in ("invert", "jitter", "fixed", "counted", "nothing", "absent")}


@pytest.fixture
def jitters(install: Install) -> None:
    install("jitters", {"attack": {**JITTERS, "x2y": "jitters:jitter"}}, JITTER)


@pytest.mark.usefixtures("jitters")
@pytest.mark.parametrize(
    ("name", "family", "steps"),
    [("jitter", "jitter", None), ("jitter20", "jitter", 20), ("jitter-20", "jitter", 20), ("x2y7", "x2y", 7)],
)
def test_attack_takes_a_number_or_none(name: str, family: str, steps: int | None) -> None:
    assert registry.split_steps(name) == (family, steps)
    assert registry.split_suite(f"{name}+pgd20") == [name, "pgd20"]
    made = attacks.get(name)
    assert made.settings()["steps"] == (steps or 3)
    assert made.name == f"{family}{steps or ''}"
    assert suite_of(name).attacks == (name,)


@pytest.mark.usefixtures("jitters")
def test_our_own_attacks_keep_their_rules() -> None:
    for name in ("pgd", "pgd0", "blackbox5", "jitter0", "jitter20x", "jitters20"):
        with pytest.raises(UnknownNameError, match=f"unknown attack '{name}'"):
            registry.split_steps(name)
    with pytest.raises(UnknownNameError, match="did you mean jitter"):
        registry.split_steps("jiter")
    assert attacks.get("jitter7", step_size=0.5).settings()["step_size"] == 0.5


@pytest.mark.usefixtures("jitters")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("fixed5", "attack 'fixed' of jitters 1.5: too many positional arguments"),
        ("counted", "attack 'counted' of jitters 1.5: missing a required argument: 'steps'"),
        (
            "nothing",
            "attack 'nothing' of jitters 1.5 gives 'nothing': expected ensemble_bench.attacks.engine.attack.Attack",
        ),
        ("absent5", "cannot be loaded from 'jitters:absent': AttributeError: module 'jitters' has no attribute"),
    ],
)
def test_attacks_that_cannot_be_made(name: str, says: str) -> None:
    with pytest.raises(InvalidValueError, match=re.escape(says)):
        attacks.get(name)


@pytest.mark.usefixtures("jitters")
def test_an_attack_without_gradients_warns_of_those_that_are_masked() -> None:
    """Rounded images have no gradient, so that bim stays where it starts."""
    masked = nn.Sequential(Rounded(), trained())
    threat = ThreatModel(norm="linf", eps=0.5)
    found = evaluate(masked, suite="bim2+invert", n=40, threat=threat)
    assert [attack.settings.get("gradient_free") for attack in found.record.attacks] == [None, True]
    assert found.per_attack["bim2"] == found.clean_accuracy
    (message,) = (w.message for w in found.warnings if w.name == "gradient-free-breaks-more")
    missed = round(40 * (found.clean_accuracy - (found.per_attack["invert"] or 0)))
    assert message == f"invert breaks {missed} of 40 images that the white-box attacks missed"


class Rounded(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * 6).round() / 6


BROKEN = "raise RuntimeError('no such\\nlibrary')"


def test_a_broken_package_fails_where_it_is_used(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    names = {kind: {"broken": "breaks:it"} for kind in plugins.GROUPS}
    install("breaks", names, BROKEN)
    assert registry.split_steps("broken20") == ("broken", 20)
    assert registry.check("recipe", "broken") == "broken"
    assert attacks.get("pgd20").name == "pgd20"
    assert "breaks" not in sys.modules
    reason = "of breaks 1.5 cannot be loaded from 'breaks:it': RuntimeError: no such library"
    assert f"recipe 'broken' {reason}" in error_of(["train", "broken"], capsys)
    assert f"data set 'broken' {reason}" in error_of(["train", "baseline", "--dataset", "broken"], capsys)
    for kind in names:
        with pytest.raises(InvalidValueError, match=re.escape(f"{kind} 'broken' {reason}")):
            registry.resolve(kind, "broken")
    assert run(["list"]) == 0
    shown = capsys.readouterr().out
    assert len(re.findall(rf"^  broken(\[N\])? +broken: .* {re.escape(reason)}$", shown, re.MULTILINE)) == len(names)


def test_a_name_of_ours_is_never_shadowed(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    taken = {"attack": "pgd", "recipe": "baseline", "backbone": "wrn", "data set": "digits", "suite": "quick"}
    install("thief", {kind: {name: "thief:it"} for kind, name in taken.items()}, BROKEN)
    for kind, name in taken.items():
        assert registry.names(kind).count(name) == 1
        says = f"{kind} '{name}' is registered by ensemble-bench itself and thief 1.5: uninstall one of them"
        for look in (registry.check, registry.resolve):
            with pytest.raises(InvalidValueError, match=says):
                look(kind, name)
    for look_up in (registry.split_steps, registry.split_suite, attacks.get):
        with pytest.raises(InvalidValueError, match="attack 'pgd' is registered by"):
            look_up("pgd20")
    assert "suite 'quick' is registered by" in error_of(["evaluate", "--suite", "quick"], capsys)
    assert attacks.get("ifgsm5").name == "ifgsm5"
    assert run(["list", "attacks"]) == 0
    assert re.search(r"^  pgdN +broken: attack 'pgd' is registered by", capsys.readouterr().out, re.MULTILINE)


def test_two_packages_with_one_name_are_both_named(install: Install) -> None:
    for package in ("second", "first"):
        install(package, {"suite": {"ours": f"{package}:it"}}, BROKEN)
    with pytest.raises(InvalidValueError, match=r"suite 'ours' is registered by first 1\.5 and second 1\.5: uninstall"):
        registry.split_suite("ours")


def test_a_suite_is_no_attack(install: Install) -> None:
    install("both", {"suite": {"both": "both:it", "pgd50": "both:it"}, "attack": {"both": "both:it"}}, BROKEN)
    for name in ("both", "pgd50"):
        with pytest.raises(InvalidValueError, match=f"'{name}' is a suite and an attack"):
            registry.split_suite(name)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(("attack", name) for name in ("noise2", "-noise", "a_margin", "a+b", "a@engine", "a:b", "a(b)", "../a", "é")),
        *(("recipe", name) for name in ("../run", "a b", "2adv", "a+b")),
        *(("suite", name) for name in ("art:it", "a+b", "a@art")),
    ],
)
def test_names_that_cannot_be_typed_or_filed(install: Install, kind: str, name: str) -> None:
    install("odd", {kind: {name: "odd:it"}}, BROKEN)
    with pytest.raises(InvalidValueError, match=re.escape(f"{kind} {name!r} of odd 1.5 cannot be used: expected")):
        registry.resolve(kind, name)


def test_no_attack_is_named_like_a_column(install: Install, tmp_path: Path) -> None:
    """Those of samples and leaderboards, but for columns with an underscore, which no attack may have."""
    runs = build_runs(tmp_path / "runs", ["baseline"], seeds=(0,), n=20, points=5)
    header = write_leaderboard(runs).read_text().splitlines()[0].split(",")
    ours = [column for column in header if not column.startswith(tuple(registry.ATTACKS))]
    columns = {column for column in (*SAMPLE_COLUMNS, *ours, *FIELDS) if "_" not in column}
    # The last one heads the file of a published board alone.
    assert columns | {"verdict"} == set(plugins.RESERVED) - {"smaller-eps"}
    install("odd", {"attack": dict.fromkeys(plugins.RESERVED, "odd:it")}, BROKEN)
    for name in plugins.RESERVED:
        with pytest.raises(InvalidValueError, match="cannot be used"):
            registry.split_steps(name)


PARTS = """
import torch
from torch import nn
from ensemble_bench.registry import Suite
from ensemble_bench.data.digits import open_digits
from ensemble_bench.registry import Recipe

class Net(nn.Module):
    def __init__(self, *, width, classes, in_channels, depth=2):
        super().__init__()
        self.first = nn.Parameter(torch.randn(in_channels, 4))
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(depth))
        self.last = nn.Linear(4, classes)

    def forward(self, x):
        h = x.mean((2, 3)) @ self.first
        for layer in self.layers:
            h = layer(h)
        return self.last(h)

class Flat(nn.Module):
    def __init__(self, *, width, classes, in_channels):
        super().__init__()

RECIPE = Recipe(name="other", description="a recipe")
SUITE = Suite(name="other", attacks=("pgd5",), description="a suite")
"""


@pytest.fixture
def parts(install: Install) -> None:
    names = {
        "backbone": {"net": "parts:Net", "flat": "parts:Flat"},
        "recipe": {"mine": "parts:RECIPE", "no-recipe": "parts:SUITE"},
        "suite": {"my-suite": "parts:SUITE", "no-suite": "parts"},
        "data set": {"my-digits": "parts:open_digits", "no-data": "parts:RECIPE"},
    }
    install("parts", names, PARTS)


@pytest.mark.usefixtures("parts")
def test_everything_bears_the_name_that_users_type() -> None:
    assert registry.resolve("recipe", "mine").name == "mine"
    assert suite_of("my-suite").name == "my-suite"
    assert suite_of("my-suite+pgd20").attacks == ("pgd5", "pgd20")
    source = data.open_source("my-digits")
    assert source.dataset == "my-digits"
    assert source.fingerprint == data.open_source("digits").fingerprint
    assert versions()["parts"] == "1.5"


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("recipe", "no-recipe", "expected ensemble_bench.registry.recipes.Recipe"),
        ("suite", "no-suite", "expected ensemble_bench.registry.suites.Suite"),
        ("data set", "no-data", "expected something to call"),
    ],
)
def test_what_is_of_another_kind(kind: str, name: str, expected: str) -> None:
    with pytest.raises(InvalidValueError, match=rf"{kind} '{name}' of parts 1\.5 .*{re.escape(expected)}"):
        registry.resolve(kind, name)


@pytest.mark.usefixtures("parts")
def test_a_backbone_is_the_same_for_the_same_seed() -> None:
    """Also in weights that are of no layer known to us, and without touching the global generator."""
    shape = {"classes": 3, "image_shape": (1, 8, 8), "mean": (0.5,), "std": (0.5,)}

    def first(members: int, seed: int) -> list[torch.Tensor]:
        model = build(Architecture(backbone="net", depth=3, members=members, **shape), seed=seed)
        assert len(model.members[0].network.layers) == 3
        return [member.network.first for member in model.members]

    before = torch.get_rng_state()
    one, again, other = first(2, 0), first(2, 0), first(2, 1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, one, again))
    assert torch.equal(one[0], first(1, 0)[0])
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(one[0], other[0])


@pytest.mark.usefixtures("parts")
def test_depth_only_where_a_backbone_takes_one() -> None:
    shape = {"classes": 3, "image_shape": (1, 8, 8), "mean": (0.5,), "std": (0.5,)}
    with pytest.raises(InvalidValueError, match="depth is 100000: expected an integer from 1 to 1000"):
        Architecture(backbone="net", depth=100_000, **shape)
    with pytest.raises(InvalidValueError, match=r"backbone 'flat' of parts 1\.5: got an unexpected keyword.*'depth'"):
        build(Architecture(backbone="flat", depth=3, **shape))
