"""Published models without a network: random weights for the asking, and one quick line where none can be had."""

import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import ensemble_bench as eb
from ensemble_bench.adapters import weights
from ensemble_bench.cli import run
from ensemble_bench.data import DataSource
from ensemble_bench.errors import CheckpointError, EnsembleBenchError, InvalidValueError, UnknownNameError
from ensemble_bench.models.sources import describe


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/file.pth"


def test_who_is_silent_or_nobody_is_not_waited_for(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        nobody = f"http://127.0.0.1:{server.getsockname()[1]}"
    start = time.monotonic()
    for address in (silent, nobody, "http://[", "nothing", "http://no-such-host.invalid"):
        assert not weights.answers(address)
    assert time.monotonic() - start < 20  # five hosts of 0.2 s each, on a machine however busy


@pytest.mark.parametrize(
    "source", ["timm:resnet10t", "timm:gcvit_xxtiny", "timm:hf-hub:no/such", "torchvision:squeezenet1_1"]
)
def test_weights_that_cannot_be_had_are_one_line_with_a_remedy(
    source: str, silent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "PATIENCE", 0.05)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", silent)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    # What torch itself would ask, without an end to its patience, is not asked at all.
    monkeypatch.setattr(weights, "answers", lambda url, ask=weights.answers: ask(silent))
    with pytest.raises(CheckpointError, match=r"does not answer: try again with a network, or take .*\?random") as told:
        eb.load(source)
    assert str(told.value).startswith(f"{source}: its weights are not in ")
    assert "\n" not in str(told.value)


def test_a_name_on_the_hub_needs_the_hub_for_its_architecture_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "answers", lambda _: False)
    with pytest.raises(CheckpointError, match=r"^timm:hf-hub:no/such: https://.* does not answer$"):
        eb.load("timm:hf-hub:no/such?random")


def test_random_weights_fit_the_data_and_are_the_same_every_time(digits: DataSource) -> None:
    x = torch.rand(2, 1, 32, 32)
    sized = DataSource(**{**vars(digits), "image_shape": (1, 32, 32)})
    for source in ("timm:test_vit?random", "timm:test_byobnet?random"):
        state = torch.get_rng_state()
        models = [describe(source).load(sized) for _ in range(2)]
        assert torch.equal(torch.get_rng_state(), state)
        with torch.no_grad():
            first, again = (model(x) for model in models)
        assert first.shape == (2, 10)
        assert torch.equal(first, again)
    with torch.no_grad():
        assert eb.load("torchvision:squeezenet1_1?random")(torch.rand(1, 3, 32, 32)).shape == (1, 1000)


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("timm:resnet10t?radnom", InvalidValueError, r"timm:resnet10t\?radnom: expected \?random behind the name"),
        ("torchvision:resnet19", UnknownNameError, "unknown torchvision model 'resnet19': did you mean resnet1"),
        ("timm:resnet19?random", UnknownNameError, "unknown timm model 'resnet19'"),
        ("timm:test_vit4?random", EnsembleBenchError, "unknown timm model"),
        ("hf:", InvalidValueError, "transformers|expected the name of a model"),
    ],
)
def test_names_that_are_none(source: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        describe(source)


def test_classes_that_differ_are_told_before_anything_is_downloaded() -> None:
    with pytest.raises(InvalidValueError, match="torchvision:resnet18 tells 1000 classes apart, the data set has 10"):
        eb.load("torchvision:resnet18", dataset="digits")


def test_without_transformers_one_line_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert run(["evaluate", "hf:owner/name", "--dataset", "digits"]) == 2
    told = capsys.readouterr().err
    assert "pip install 'ensemble-bench[hf]'" in told
    assert len(told.strip().splitlines()) == 1
