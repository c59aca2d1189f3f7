"""Published models: RobustBench's zoo from a folder of weights, timm's pretrained ones, never a network connection."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
import torch
from torch import Tensor, nn

import ensemble_bench as eb
from ensemble_bench.adapters import robustbench_zoo, weights
from ensemble_bench.adapters import timm as timm_adapter
from ensemble_bench.adapters.robustbench import import_robustbench
from ensemble_bench.data import DataSource
from ensemble_bench.errors import CheckpointError, EnsembleBenchError, InvalidValueError, UnknownNameError
from ensemble_bench.models.sources import describe

SMALL = "Addepalli2022Efficient_RN18"


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their download meets no network, wherever the tests run."""

    def download(*_: object) -> None:
        raise requests.exceptions.ConnectionError("no network")

    import_robustbench()
    monkeypatch.setattr("robustbench.utils.download_gdrive_new", download)


def zoo(threat: str = "Linf") -> Any:
    from robustbench.model_zoo import model_dicts
    from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel

    return model_dicts[BenchmarkDataset.cifar_10][ThreatModel(threat)]


def save(content: Any, folder: Path, name: str = SMALL, threat: str = "Linf") -> Path:
    path = folder / "cifar10" / threat / f"{name}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


class Tiny(nn.Module):
    """Stands in for a network of the zoo."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 32 * 32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    for threat in ("Linf", "L2"):
        monkeypatch.setitem(zoo(threat), "Tiny2024", {"model": Tiny, "gdrive_id": "none"})
    return "Tiny2024"


def test_a_model_of_the_zoo_computes_what_its_network_does(tmp_path: Path, x: Tensor) -> None:
    network = zoo()[SMALL]["model"]().eval()
    # Published files hold the names of a parallel module, in a larger checkpoint.
    save({"state_dict": {f"module.{name}": value for name, value in network.state_dict().items()}}, tmp_path)
    state = torch.get_rng_state()
    model = eb.load(f"robustbench:{SMALL}", model_dir=tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in model.modules())
    with torch.no_grad():
        assert torch.equal(model.member_logits(x)[0], network(x))


def test_zoo_models_join_across_threat_models(tmp_path: Path, tiny: str, x: Tensor) -> None:
    networks = [Tiny().eval(), Tiny().eval()]
    for network, threat in zip(networks, ("Linf", "L2"), strict=True):
        save(network.state_dict(), tmp_path, tiny, threat)
    found = describe(f"robustbench:Linf/{tiny}+robustbench:L2/{tiny}", model_dir=tmp_path)
    assert found.meta == {"dataset": "cifar10", "threat": None}
    with torch.no_grad():
        expected = torch.stack([network(x).softmax(1) for network in networks]).mean(0)
        torch.testing.assert_close(found.load(None)(x).exp(), expected)


@pytest.mark.parametrize(
    ("name", "norm", "eps"), [(SMALL, "linf", 8 / 255), (f"Linf/{SMALL}", "linf", 8 / 255), ("L2/Standard", "l2", 0.5)]
)
def test_what_a_zoo_model_was_trained_for(name: str, norm: str, eps: float) -> None:
    assert robustbench_zoo.meta(name) == {"dataset": "cifar10", "threat": {"norm": norm, "eps": eps}}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("robustbench:Standart", r"RobustBench model \(Linf\) 'Standart': did you mean Standard"),
        ("robustbench:L2/Standart", r"RobustBench model \(L2\) 'Standart': did you mean Standard"),
        ("robustbench:L3/Standard", "threat model of RobustBench 'L3': .*choose from L2, Linf"),
        ("timm:resnt18", "timm model 'resnt18': did you mean resnet18"),
        ("timm:", "timm model ''"),
        ("timm:resnet18.a9_in1k", r"timm model 'resnet18\.a9_in1k': did you mean resnet18\.a\d_in1k"),
        ("timm:resnet18.a9_in1k?random", "choose from resnet18, resnet18.a1_in1k"),
    ],
)
def test_unknown_names_offer_near_ones(source: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        describe(source)


class Bomb:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize("content", ["bomb", "misfit", "text", "nothing"])
def test_zoo_files_that_are_refused(
    tmp_path: Path, tiny: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    environment, modules = dict(os.environ), {"autoattack", "autoattack.state"} & set(sys.modules)
    path = Path("models/cifar10/Linf", f"{tiny}.pt")
    if content != "nothing":
        save({"bomb": {"state_dict": Bomb()}}.get(content, nn.Linear(2, 2).state_dict()), Path("models"), tiny)
    if content == "text":
        path.write_text("<html>quota exceeded</html>")
    message = {
        "bomb": rf"^{path}: holds more than tensors and plain values .posix.mkdir., and code in it is never run$",
        "misfit": rf"^{path}: RuntimeError: .*Missing key",
        "text": rf"^{path}: not a file that torch.save wrote$",
        "nothing": rf"^robustbench:{tiny}: expected at {path}, and its download failed: ConnectionError: no network$",
    }[content]
    with pytest.raises(CheckpointError, match=message) as raised:
        eb.load(f"robustbench:{tiny}")
    assert "\n" not in str(raised.value)
    assert not Path("exploded").exists()
    assert dict(os.environ) == environment
    assert {"autoattack", "autoattack.state"} & set(sys.modules) == modules
    assert capsys.readouterr().out == ""  # what the library prints goes to stderr


TIMM = "resnet10t"


@pytest.fixture
def _no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's pretrained networks keep their random weights."""
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *_, **__: None)
    monkeypatch.setattr(weights, "answers", lambda _: True)


@pytest.mark.usefixtures("_no_download")
def test_timm_models_normalise_inside_by_what_they_were_trained_with(x: Tensor) -> None:
    model = eb.load(f"timm:{TIMM}")
    network = model.members[0][1]
    mean, std = (torch.tensor(network.pretrained_cfg[key]).view(-1, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        torch.testing.assert_close(model.member_logits(x)[0], network((x - mean) / std))
    assert timm_adapter.meta(TIMM) == {}
    with pytest.raises(InvalidValueError, match=f"timm:{TIMM} tells 1000 classes apart, the data set has 10"):
        eb.load(f"timm:{TIMM}", dataset="digits")


@pytest.mark.parametrize("normalise", [None, "pretrained", "dataset", "none"])
def test_a_state_dict_of_a_timm_architecture(
    tmp_path: Path, digits: DataSource, x: Tensor, normalise: str | None
) -> None:
    import timm

    network = timm.create_model(TIMM, num_classes=10).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    source = replace(digits, image_shape=(3, 32, 32), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    model = describe(tmp_path / "weights.pt", arch=f"timm:{TIMM}", normalise=normalise).load(source)
    pretrained = network.pretrained_cfg["mean"], network.pretrained_cfg["std"]
    mean, std = {"dataset": (source.mean, source.std), "none": ((0.0,), (1.0,))}.get(str(normalise), pretrained)
    with torch.no_grad():
        expected = network((x - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1))
        torch.testing.assert_close(model.member_logits(x)[0], expected)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError("no\nnetwork"), f"^timm:{TIMM}: OSError: no network$"),
        (RuntimeError("Run `pip install huggingface_hub`."), f"^timm:{TIMM}: timm .* install 'huggingface_hub<2'$"),
    ],
)
def test_timm_without_weights_is_one_line(error: Exception, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    def create_model(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(timm, "create_model", create_model)
    monkeypatch.setattr(weights, "answers", lambda _: True)
    with pytest.raises(EnsembleBenchError, match=message):
        eb.load(f"timm:{TIMM}")
