"""Classifiers of Hugging Face transformers, from folders with random weights; never a network connection."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ensemble_bench as eb
from ensemble_bench.adapters import huggingface, weights
from ensemble_bench.data import DataSource
from ensemble_bench.data.given import given_source
from ensemble_bench.errors import CheckpointError, InvalidValueError
from ensemble_bench.evaluation.runner import evaluate_checkpoints
from ensemble_bench.models.sources import describe

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install -e '.[hf]'")
CLASSES = 4


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny vision transformer for 16x16 pixels, saved with its preprocessing."""
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8,
        num_labels=CLASSES,
    )  # fmt: skip
    return saved(
        tmp_path_factory.mktemp("vit"),
        transformers.ViTForImageClassification(config),
        transformers.ViTImageProcessor(
            size={"height": 16, "width": 16}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4]
        ),
    )


@pytest.fixture(scope="module")
def convnext(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny convolutional network, whose preprocessing resizes, cuts the border off and normalises."""
    config = transformers.ConvNextConfig(hidden_sizes=[4, 8], depths=[1, 1], num_stages=2, num_labels=CLASSES)
    return saved(
        tmp_path_factory.mktemp("convnext"),
        transformers.ConvNextForImageClassification(config),
        transformers.ConvNextImageProcessor(size={"shortest_edge": 28}),
    )


def saved(folder: Path, network: Any, processor: Any) -> Path:
    torch.manual_seed(0)
    for parameter in network.parameters():  # those that transformers makes hardly tell images apart
        torch.nn.init.normal_(parameter, std=0.5)
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def source() -> DataSource:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (8, 3, 32, 32), dtype=np.uint8)
    return given_source((x, np.arange(8) % CLASSES), pair="test")


def theirs(folder: Path, x: torch.Tensor) -> torch.Tensor:
    """Log-probabilities by transformers alone, from images of bytes."""
    network = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    pixels = processor(images=list((x * 255).round().byte()), return_tensors="pt", input_data_format="channels_first")
    with torch.no_grad():
        return network(**pixels).logits.log_softmax(1)


def test_it_computes_what_transformers_does(vit: Path, convnext: Path, source: DataSource) -> None:
    x, _ = source.split("test").batch(slice(6))
    smooth = torch.nn.functional.interpolate(x[:, :, :5, :5], (40, 32), mode="bilinear")
    # As they are; resized; resized and cut. What is resized they round to bytes.
    for folder, images, share in ((vit, x[:, :, :16, :16], 1e-5), (vit, smooth, 0.05), (convnext, smooth, 0.05)):
        with torch.no_grad():
            ours = eb.load(f"hf:{folder}")(images)
        expected = theirs(folder, images)
        assert (ours - expected).abs().max() < share * (expected - expected.mean(0)).abs().max()


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        *((kind, {}) for kind in ("ViT", "DeiT", "Beit", "EfficientNet", "Levit", "PoolFormer", "MobileNetV2", "Bit")),
        ("MobileViT", {"size": {"shortest_edge": 288}}),
        *(("ConvNext", {"size": {"shortest_edge": edge}}) for edge in (224, 384)),
        ("Levit", {"size": {"shortest_edge": 192}, "crop_size": {"height": 192, "width": 192}}),
    ],
)
def test_images_are_prepared_as_transformers_does(kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    processor = getattr(transformers, f"{kind}ImageProcessor")
    processor(**settings).save_pretrained(tmp_path)
    ours = huggingface._preprocessing("hf:model", tmp_path)
    x = torch.stack([0.5 + 0.4 * (torch.linspace(c, c + 4, 270) + torch.ones(330, 1)).sin() for c in range(3)])[None]
    expected = processor(**settings)(
        images=list((x * 255).round().byte()), return_tensors="pt", input_data_format="channels_first"
    )["pixel_values"]
    found = huggingface.Classifier(torch.nn.Identity(), ours).prepared(x)
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0)


def test_a_preprocessing_that_is_not_known_is_refused(tmp_path: Path) -> None:
    transformers.PerceiverImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"^hf:model: PerceiverImageProcessor\w* prepares images in a way .* apart$"
    ):
        huggingface._preprocessing("hf:model", tmp_path)


def test_a_folder_needs_no_prefix_and_gradients_reach_images_of_any_size(convnext: Path) -> None:
    x = torch.rand(2, 3, 20, 24, requires_grad=True)
    model = eb.load(convnext)
    (grad,) = torch.autograd.grad(model(x)[:, 0].sum(), x)
    assert grad.isfinite().all()
    assert grad.abs().amax() > 0
    assert describe(convnext).text == str(convnext)


def test_what_the_hub_left_in_its_cache_needs_no_network(
    vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "answers", lambda _: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository, commit = tmp_path / "models--owner--name", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(vit, repository / "snapshots" / commit)
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        expected = eb.load(vit)(x)
        for name in ("owner/name", "owner/name@main"):
            assert torch.equal(eb.load(f"hf:{name}")(x), expected)
    with pytest.raises(CheckpointError, match="hf:owner/name@v2: is no folder, not in the hub's cache"):
        eb.load("hf:owner/name@v2")


def test_classes_in_another_order_are_put_in_that_of_the_data(
    vit: Path, source: DataSource, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = transformers.AutoModelForImageClassification.from_pretrained(
        vit, id2label=dict(enumerate("dbac")), label2id={label: i for i, label in enumerate("dbac")}
    )
    network.save_pretrained(tmp_path)
    x = source.split("test").batch(slice(None))[0][:, :, :16, :16]
    named = replace(source, classes=("A", "B", "C", "D"))
    with caplog.at_level(logging.WARNING), torch.no_grad():
        logits = describe(f"hf:{tmp_path}").load(named)(x)
        plain = eb.load(f"hf:{tmp_path}")(x)
    torch.testing.assert_close(logits, plain[:, [2, 1, 3, 0]])
    assert "its classes are put in the order of the data set's" in caplog.text


def test_a_vit_a_resnet_and_a_classifier_of_transformers_alone_and_as_one(
    vit: Path, source: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    x, y = source.split("test").batch(slice(None))
    np.savez("mine.npz", x_test=(x.numpy() * 255).round().astype(np.uint8), y_test=y.numpy())
    parts = [f"hf:{vit}", "timm:test_vit?random", "torchvision:resnet18?random"]
    models = [*parts, "+".join(parts)]
    records = evaluate_checkpoints(models, dataset="npz:mine.npz", suite="pgd3+mora3", threads=1)
    assert [record.n for record in records] == [8] * 4
    assert [record.forward_passes for record in records] == [1, 1, 1, 3]
    joined = describe(models[-1]).load(source)
    with torch.no_grad():
        probs = torch.stack([describe(part).load(source)(x).softmax(1) for part in parts]).mean(0)
        torch.testing.assert_close(joined(x), probs.log(), atol=1e-5, rtol=1e-4)
        right = joined(x).argmax(1) == y
    assert records[-1].clean.accuracy == right.float().mean().item()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("nothing there", "is no folder, not in the hub's cache, and .* does not answer: expected hf:FOLDER"),
        ("no weights", "model.safetensors"),
        ("a weight less", r"missing keys: classifier\.weight \(of 1\)"),
        ("another shape", r"mismatched keys: classifier\.bias is \(4,\), expected \(5,\)"),
        ("no classifier", "BertConfig"),
        ("classes", "tells 4 classes apart, the data set has 10"),
        ("sizes", "preprocessor resizes to .*: expected height and width"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(
    vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str, message: str
) -> None:
    monkeypatch.setattr(weights, "answers", lambda _: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    folder.mkdir()
    for file in vit.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    if damage == "no weights":
        (folder / "model.safetensors").unlink()
    if damage == "a weight less":
        from safetensors.torch import load_file, save_file

        kept = load_file(folder / "model.safetensors")
        save_file({k: v for k, v in kept.items() if k != "classifier.weight"}, folder / "model.safetensors")
    if damage == "another shape":
        path = folder / "config.json"
        path.write_text(path.read_text().replace('"3":', '"4": "more", "3":'))
    if damage == "no classifier":
        transformers.BertConfig().save_pretrained(folder)
    if damage == "sizes":
        path = folder / huggingface.PREPROCESSOR
        path.write_text(json.dumps({**json.loads(path.read_text()), "size": {"longest_edge": 16}}))
    name = "nobody/no-such-model" if damage == "nothing there" else str(folder)
    with pytest.raises((CheckpointError, InvalidValueError), match=message) as raised:
        eb.load(f"hf:{name}", dataset="digits" if damage == "classes" else None)
    assert str(raised.value).startswith(f"hf:{name}")
    assert "\n" not in str(raised.value)
