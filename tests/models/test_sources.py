"""Models by their texts: what each form computes, and what is said of those that cannot be loaded."""

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from small_models import ARCHITECTURE, images
from torch import Tensor, nn

import ensemble_bench as eb
from ensemble_bench.data import DataSource
from ensemble_bench.errors import CheckpointError, EnsembleBenchError, InvalidValueError
from ensemble_bench.models import checkpoint
from ensemble_bench.models.build import build, skeleton
from ensemble_bench.models.sources import describe, split
from ensemble_bench.models.state_dict import weights_only

PAIR = replace(ARCHITECTURE, members=2)
CODE = """
import torch
from torch import nn

class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 10)
    def forward(self, x):
        return self.linear(x.flatten(1))

torch.manual_seed(3)
net = Flat()
number = 3
def fails():
    raise ValueError("two\\nlines")
def exits():
    raise SystemExit(1)
class Inner:
    make = Flat
"""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    Path("own_models.py").write_text(CODE)
    yield
    sys.modules.pop("own_models", None)


@pytest.fixture
def network() -> nn.Module:
    """A network of ours that takes normalised images."""
    return build(ARCHITECTURE).eval().members[0].get_submodule("network")


def write(weights: dict[str, Tensor], path: Path) -> None:
    if path.suffix == ".safetensors":
        save_file({name: value.contiguous() for name, value in weights.items()}, path)
    else:
        torch.save(weights, path)


def normalised(x: Tensor, source: DataSource) -> Tensor:
    return (x - torch.tensor(source.mean).view(-1, 1, 1)) / torch.tensor(source.std).view(-1, 1, 1)


def assert_computes(model: eb.Ensemble, logits: Tensor) -> None:
    assert isinstance(model, eb.Ensemble)
    assert not any(module.training for module in model.modules())
    with torch.no_grad():
        torch.testing.assert_close(model(images(20)[0]), logits.log_softmax(1))


def test_a_checkpoint_loads_as_ever() -> None:
    model = build(PAIR)
    checkpoint.save(Path("run/best.safetensors"), model, PAIR, {"dataset": "digits"})
    for source in ("run", Path("run"), "run/best.safetensors"):
        found = eb.load(source)
        assert found.info is not None
        assert describe(source).meta == {"dataset": "digits"}
        assert all(torch.equal(value, found.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".safetensors"])
@pytest.mark.parametrize("normalise", [None, "none"])
def test_a_state_dict_of_a_backbone_of_ours(
    network: nn.Module, digits: DataSource, suffix: str, normalise: str | None
) -> None:
    path = Path(f"weights{suffix}")
    write(network.state_dict(), path)
    model = eb.load(path, arch="small_cnn-0.5", normalise=normalise, dataset="digits")
    x = images(20)[0]
    with torch.no_grad():
        assert_computes(model, network(x if normalise else normalised(x, digits)))


@pytest.mark.parametrize(
    ("arch", "architecture"),
    [
        ("wrn-10-2", {"backbone": "wrn", "depth": 10, "width": 2.0}),
        ("wrn-16-0.5", {"backbone": "wrn", "depth": 16, "width": 0.5}),
        ("small_cnn", {"backbone": "small_cnn", "width": 1.0}),
        ("preact_resnet18-0.25", {"backbone": "preact_resnet18", "width": 0.25}),
    ],
)
def test_backbones_by_name_and_size(arch: str, architecture: dict[str, Any]) -> None:
    expected = skeleton(replace(ARCHITECTURE, **architecture)).members[0].get_submodule("network")
    torch.save(expected.state_dict(), "weights.pt")
    found = eb.load("weights.pt", arch=arch, dataset="digits").state_dict()
    assert sum(value.numel() for value in found.values()) == sum(v.numel() for v in expected.state_dict().values())


@pytest.mark.parametrize(
    "prefix", ["", "module.", "model.", "_orig_mod.", "module.model.", "model.module.", "_orig_mod.module."]
)
@pytest.mark.parametrize("wrapper", [(), ("state_dict",), ("model",), ("net",), ("model", "state_dict")])
def test_prefixes_and_wrappers_come_off(
    network: nn.Module, digits: DataSource, prefix: str, wrapper: tuple[str, ...]
) -> None:
    content: Any = {prefix + name: value for name, value in network.state_dict().items()}
    for key in wrapper:
        content = {key: content, "epoch": 3}
    torch.save(content, "weights.pt")
    with torch.no_grad():
        logits = network(normalised(images(20)[0], digits))
    assert_computes(eb.load("weights.pt", arch="small_cnn-0.5", dataset="digits"), logits)


def test_a_prefix_of_the_architecture_stays() -> None:
    Path("own_models.py").write_text(CODE + "\ndef wrapped():\n    return nn.ModuleDict({'model': Flat()})\n")
    weights = {"module.model.linear.weight": torch.ones(10, 64), "module.model.linear.bias": torch.zeros(10)}
    torch.save(weights, "weights.pt")
    assert torch.equal(
        eb.load("weights.pt", arch="own_models:wrapped").state_dict()["members.0.model.linear.weight"],
        torch.ones(10, 64),
    )


@pytest.mark.parametrize("source", ["own_models:net", "own_models:Flat", "own_models:Inner.make"])
def test_own_code_runs_with_the_current_folder_importable(source: str, digits: DataSource) -> None:
    path, state = list(sys.path), torch.get_rng_state()
    model = eb.load(source)
    normal = eb.load(source, normalise="dataset", dataset="digits")
    assert sys.path == path
    assert torch.equal(torch.get_rng_state(), state)
    x = images(20)[0]
    with torch.no_grad():
        linear = model.members[0].linear
        assert_computes(model, x.flatten(1) @ linear.weight.T + linear.bias)
        linear = normal.members[0][1].linear
        assert_computes(normal, normalised(x, digits).flatten(1) @ linear.weight.T + linear.bias)


def test_a_joined_ensemble_averages_the_probabilities_of_whole_models() -> None:
    pair = build(PAIR, seed=1).eval()
    checkpoint.save(Path("a+b/best.safetensors"), pair, PAIR, {"dataset": "digits"})
    found = describe("a+b+own_models:net")
    assert found.meta == {"dataset": "digits"}
    model = found.load(None)
    x = images(20)[0]
    with torch.no_grad():
        both = pair(x).exp(), eb.load("own_models:net")(x).exp()
        assert_computes(model, torch.stack(both).mean(0).log())
        assert model.member_logits(x).shape == (2, 20, 10)


def test_a_plus_sign_in_a_path_stays() -> None:
    Path("a+b").mkdir()
    Path("c+d.pt").touch()
    assert split("a+b+c+d.pt+timm:x+a+b") == ["a+b", "c+d.pt", "timm:x", "a+b"]
    assert split("a+c") == ["a", "c"]
    for text in ("", "a+", "+a", "a++b"):
        with pytest.raises(InvalidValueError, match="empty part"):
            split(text)


def test_parts_that_differ_leave_data_set_or_threat_open() -> None:
    for name, dataset, eps in (("a", "digits", 0.1), ("b", "digits", 0.2), ("c", "cifar10", 0.1)):
        meta = {"dataset": dataset, "threat": {"norm": "linf", "eps": eps}}
        checkpoint.save(Path(name, "best.safetensors"), build(ARCHITECTURE), ARCHITECTURE, meta)
    assert describe("a+a").meta == {"dataset": "digits", "threat": {"norm": "linf", "eps": 0.1}}
    assert describe("a+b").meta == {"dataset": "digits", "threat": None}
    assert describe("a+c").meta == {"threat": {"norm": "linf", "eps": 0.1}}


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("nowhere", {}, "nowhere: does not exist, expected a run folder, .*zoo:NAME, robustbench:NAME"),
        ("nowhere.pt", {}, "nowhere.pt: does not exist"),
        ("no_such_module:make", {}, "No module named 'no_such_module' .expected a run folder"),
        ("own_models:missing", {}, "own_models:missing: AttributeError: .*'missing'$"),
        ("own_models:number", {}, "own_models:number gives a int: expected torch.nn.Module"),
        ("own_models:fails", {}, "own_models:fails: ValueError: two lines$"),
        ("own_models:exits", {}, "own_models:exits: SystemExit: 1"),
        ("own_models:net", {"arch": "small_cnn"}, "arch is 'small_cnn', but own_models:net takes none"),
        ("own_models:net", {"normalise": "data"}, "unknown normalise 'data': did you mean dataset"),
        ("own_models:net", {"normalise": "dataset"}, "pass the dataset"),
        ("own_models:net", {"normalise": "pretrained"}, "Flat is no network of timm"),
        ("weights.pt", {}, "weights.pt: .*needs --arch, such as wrn-16-4"),
        ("weights.pt", {"arch": "small_cnn-0.5"}, "small_cnn-0.5 needs a number of classes: pass the dataset"),
        ("weights.pt", {"arch": "smal_cnn", "dataset": "digits"}, "'smal_cnn': did you mean small_cnn"),
        ("weights.pt", {"arch": "wrn", "dataset": "digits"}, "unknown architecture 'wrn': .*wrn-16-4"),
        ("weights.pt", {"arch": "wrn-16", "dataset": "digits"}, "unknown architecture 'wrn-16'"),
        ("weights.pt", {"arch": "small_cnn-4-2", "dataset": "digits"}, "unknown architecture 'small_cnn-4-2'"),
        ("weights.pt", {"arch": "wrn-15-4", "dataset": "digits"}, "depth is 15"),
        ("weights.pt", {"arch": "small_cnn", "dataset": "digits"}, r"does not fit .* is \(.*expected \("),
        ("weights.pt", {"arch": "own_models:Flat"}, "weights.pt: does not fit its architecture"),
        ("bare.safetensors", {}, "bare.json is missing; a state_dict needs --arch"),
    ],
)  # fmt: skip
def test_errors_are_one_line_that_says_what_is_wrong(
    network: nn.Module, source: str, options: dict[str, str], message: str
) -> None:
    torch.save(network.state_dict(), "weights.pt")
    write(network.state_dict(), Path("bare.safetensors"))
    path = list(sys.path)
    with pytest.raises(EnsembleBenchError, match=message) as raised:
        eb.load(source, **options)
    assert "\n" not in str(raised.value)
    assert sys.path == path


def damaged(kind: str, weights: dict[str, Tensor]) -> Any:
    first = next(iter(weights))
    return {
        "lacks": {name: value for name, value in weights.items() if name != first},
        "unexpected": {**weights, "more": torch.ones(1)},
        "NaN": {**weights, first: torch.full_like(weights[first], torch.nan)},
        "no state_dict": {"epoch": 3, "losses": [1.0]},
        "tensor": torch.ones(3),
        "empty": {},
        "module": nn.Linear(2, 2),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("lacks", "does not fit its architecture: lacks .*of 1 such tensors"),
        ("unexpected", "does not fit its architecture: has an unexpected more"),
        ("NaN", ".*weight holds NaN or infinite weights"),
        ("no state_dict", "no state_dict in it, expected names and tensors"),
        ("tensor", "no state_dict in it"),
        ("empty", "no state_dict in it"),
        (
            "module",
            "holds more than tensors and plain values .torch.nn.modules.linear.Linear., and code in it is never",
        ),
        ("truncated", "RuntimeError: .*zip archive"),
        ("text", "not a file that torch.save wrote"),
    ],
)
def test_files_that_cannot_be_read_or_do_not_fit(network: nn.Module, kind: str, message: str) -> None:
    path, weights = Path("weights.pt"), network.state_dict()
    if kind == "text":
        path.write_text("<html>quota exceeded</html>")
    else:
        torch.save(weights if kind == "truncated" else damaged(kind, weights), path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match=f"^weights.pt: {message}") as raised:
        eb.load(path, arch="small_cnn-0.5", dataset="digits")
    assert "\n" not in str(raised.value)
    assert "weights_only" not in str(raised.value)  # torch's advice is to switch its safety off


class Bomb:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("exploded",)


def test_code_in_a_pickle_never_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"state_dict": Bomb()}, "weights.pt")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(CheckpointError, match=r"posix.mkdir.*never run"):
        eb.load("weights.pt", arch="small_cnn", dataset="digits")
    before = dict(os.environ)
    with weights_only(), pytest.raises(Exception, match="mkdir"):
        torch.load("weights.pt", weights_only=False)
    assert dict(os.environ) == before
    assert not Path("exploded").exists()
    with pytest.warns(UserWarning, match="NO_WEIGHTS_ONLY"):
        torch.load("weights.pt")  # the bomb is live: torch alone does what the environment says
    assert Path("exploded").exists()


@pytest.mark.parametrize("name", ["w.pth.tar", "w.ckpt", "w", "w.pt"])
@pytest.mark.parametrize(
    "kind", ["plain", "swa", "ema", "swa in a checkpoint", "no counts", "lightning", "both", "ema first"]
)
def test_weights_as_other_tools_leave_them(network: nn.Module, digits: DataSource, name: str, kind: str) -> None:
    weights = network.state_dict()
    averaged = torch.optim.swa_utils.AveragedModel(network).state_dict()
    zeros = {key: torch.zeros_like(value) for key, value in weights.items()}
    content: dict[str, Any] = {
        "plain": weights,
        "swa": averaged,
        "ema": {"model_ema": weights, "epoch": 3},
        "swa in a checkpoint": {"state_dict": averaged, "epoch": 3},
        "no counts": {key: value for key, value in weights.items() if "num_batches_tracked" not in key},
        "lightning": {"epoch": 1, "state_dict": {f"net.{key}": value for key, value in weights.items()}},
        "both": {"state_dict_ema": zeros, "state_dict": weights},
        "ema first": {"ema": {f"module.{key}": value for key, value in weights.items()}},
    }[kind]
    torch.save(content, name)
    with torch.no_grad():
        assert_computes(
            eb.load(name, arch="small_cnn-0.5", dataset="digits"), network(normalised(images(20)[0], digits))
        )


def test_what_does_not_fit_lists_what_the_file_holds(network: nn.Module) -> None:
    torch.save({"epoch": 3, "optimizer": {"lr": 0.1}}, "w.pth.tar")
    with pytest.raises(CheckpointError, match=r"^w\.pth\.tar: no state_dict in it, .*: it holds epoch, optimizer$"):
        eb.load("w.pth.tar", arch="small_cnn-0.5", dataset="digits")
    torch.save({f"layer{i}.weight": torch.zeros(2) for i in range(7)}, "w.pth.tar")
    with pytest.raises(CheckpointError, match=r"lacks .*; it holds layer0\.weight, .*layer4\.weight, … \(7 in all\)$"):
        eb.load("w.pth.tar", arch="small_cnn-0.5", dataset="digits")
    with pytest.raises(CheckpointError, match=r"^w\.pth\.tar: not a safetensors checkpoint"):
        eb.load("w.pth.tar")
