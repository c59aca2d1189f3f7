"""Saved adversarial images: what the files claim holds when the model is asked, whatever interrupted the evaluation."""

import csv
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from killing import Killed, killing
from PIL import Image
from safetensors import safe_open
from small_models import ARCHITECTURE, recorded, trained

import ensemble_bench as eb
from ensemble_bench.errors import InvalidValueError
from ensemble_bench.evaluation import images as adversarial
from ensemble_bench.evaluation import job as jobs
from ensemble_bench.evaluation.request import Request
from ensemble_bench.evaluation.runner import Result, evaluate, evaluate_block, evaluate_checkpoints
from ensemble_bench.files import sha256_file
from ensemble_bench.models import checkpoint
from ensemble_bench.records import find_records, read_record, read_samples
from ensemble_bench.registry import SUITES, Suite
from ensemble_bench.threat import ThreatModel

N = 60  # the model gets one of these wrong without an attack
THREAT = ThreatModel(eps=24 / 255)
# Without a cascade the second attack breaks images again that the first broke, and the image of the first counts.
APART, CASCADE = "ifgsm5+apgd10", "cascade"


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "BLOCK", 20)
    made = Suite(name=CASCADE, attacks=("ifgsm3", "apgd-t5", "margin10"), cascade=True, description="")
    monkeypatch.setitem(SUITES, CASCADE, made)  # type: ignore[arg-type]


def scored(out: Path | None, images: Path | None, *, suite: str = CASCADE, **options: Any) -> Result:
    return evaluate(trained(), n=N, suite=suite, threat=THREAT, out=out, save_images=images, **options)


def tensors_of(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["info"])  # noqa: SIM118


def predicted(x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return trained()(x).argmax(dim=1)


@pytest.mark.parametrize("suite", [APART, CASCADE])
def test_the_float32_file_holds_what_broke_each_image(tmp_path: Path, suite: str) -> None:
    result = scored(None, tmp_path / "adv.safetensors", suite=suite)
    found, info = tensors_of(tmp_path / "adv.safetensors")
    x, y = eb.data.load("digits", split="test", n=N)
    samples = result.samples
    assert found["ids"].tolist() == samples["id"].tolist()
    assert found["labels"].tolist() == y.tolist()
    THREAT.check(found["x_adv"], x)
    # The file alone says how robust the model is: what it gets wrong there is what is called broken.
    assert torch.equal(predicted(found["x_adv"]) != y, found["broken"])
    assert 1 - found["broken"].double().mean().item() == pytest.approx(result.robust_accuracy)
    names = [info["broken_by"][i] for i in found["broken_by"].tolist()]
    rows = zip(samples["clean"], samples["broken_by"], strict=True)
    assert names == [by if isinstance(by, str) else "" if clean else "clean" for clean, by in rows]
    assert {"", "clean"} < set(names)
    still = torch.tensor([name in ("", "clean") for name in names])
    assert torch.equal(found["x_adv"][still], x[still])
    fell = ~still
    assert samples["adversarial_prediction"].isna().tolist() == still.tolist()
    assert samples["adversarial_prediction"].dropna().tolist() == predicted(found["x_adv"][fell]).tolist()
    images = result.record.images
    assert images is not None
    assert (images.format, images.hash) == ("float32", sha256_file(tmp_path / "adv.safetensors"))
    assert images.broken == images.confirmed == fell.sum()
    assert (info["evaluation"], info["threat"]) == (result.record.id, THREAT.as_dict())


def test_each_image_is_that_of_the_attack_that_broke_it_first(tmp_path: Path) -> None:
    result = scored(None, tmp_path / "adv.safetensors", suite=APART, precision="float32")
    found, info = tensors_of(tmp_path / "adv.safetensors")
    first = found["broken_by"] == info["broken_by"].index("ifgsm5")
    assert first.any()
    assert not result.samples["apgd10"][first.numpy()].all()  # the second attack broke some of these too
    x, y = eb.data.load("digits", split="test", n=N)
    outcome = eb.attacks.get("ifgsm5").run(trained(), x, y, THREAT, ids=found["ids"])
    torch.testing.assert_close(found["x_adv"][first], outcome.x_adv[first], rtol=0, atol=1e-5)


@pytest.mark.parametrize("threat", [THREAT, ThreatModel(norm="l2", eps=0.6)], ids=["linf", "l2"])
def test_png_files_are_in_the_ball_and_say_whether_the_model_still_errs(tmp_path: Path, threat: ThreatModel) -> None:
    result = evaluate(trained(), n=N, suite=CASCADE, threat=threat, save_images=tmp_path / "png")
    x, y = eb.data.load("digits", split="test", n=N)
    rows = list(csv.DictReader((tmp_path / "png" / "images.csv").open(encoding="utf-8")))
    assert [int(row["id"]) for row in rows] == result.samples["id"].tolist()
    pixels = np.stack([np.asarray(Image.open(tmp_path / "png" / row["file"])) for row in rows])
    assert pixels.dtype == np.uint8
    shown = torch.from_numpy(pixels)[:, None].float() / 255
    threat.check(shown, x)
    assert all(row["in_ball"] == "1" for row in rows)
    classes = predicted(shown)
    assert [int(row["prediction"]) for row in rows] == classes.tolist()
    assert [row["broken"] == "1" for row in rows] == (classes != y).tolist()
    by_attack = torch.tensor([row["broken_by"] not in ("", "clean") for row in rows])
    images = result.record.images
    assert images is not None
    assert (images.broken, images.rounded) == (by_attack.sum(), (by_attack & (classes != y)).sum())
    assert images.rounded > 0
    assert json.loads((tmp_path / "png" / "images.json").read_text())["evaluation"] == result.record.id


def test_both_formats_count_the_same_survivors_of_rounding(tmp_path: Path) -> None:
    exact, rounded = (scored(None, tmp_path / name).record.images for name in ("adv.safetensors", "png"))
    assert exact is not None
    assert rounded is not None
    assert (exact.broken, exact.confirmed, exact.rounded) == (rounded.broken, rounded.confirmed, rounded.rounded)


@pytest.mark.parametrize("name", ["adv.safetensors", "png"])
def test_killed_anywhere_and_resumed_gives_the_same_files(tmp_path: Path, name: str) -> None:
    scored(tmp_path / "whole", tmp_path / "a" / name)
    draw, kills = random.Random(0), 0
    while True:
        try:
            # Begun without images, it goes on with them: blocks that were done without are done again.
            images = tmp_path / "b" / name if kills else None
            scored(tmp_path / "killed", images, progress=killing(draw.randint(8, 30) if kills else 6))
            break
        except Killed:
            kills += 1
            assert not (tmp_path / "killed" / "record.json").exists()
    assert kills > 2
    assert files_in(tmp_path / "a") == files_in(tmp_path / "b")
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == ["record.json", "samples.parquet"]
    assert read_record(tmp_path / "killed").images == read_record(tmp_path / "whole").images


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def a_run(folder: Path) -> Path:
    meta = {"recipe": "singleadv", "dataset": "digits", "threat": THREAT.as_dict()}
    checkpoint.save(folder / "best.safetensors", trained(), ARCHITECTURE, meta)
    return folder


def test_blocks_in_any_order_give_the_same_file(tmp_path: Path) -> None:
    for name, blocks in (("one", ()), ("many", (2, 0, 1))):
        run = a_run(tmp_path / name / "s-s0")
        request = Request(models=(run,), suite=CASCADE, n=N, save_images=tmp_path / name / "adv.safetensors")
        for block in blocks:
            evaluate_block(request, block)
        evaluate_checkpoints(**vars(request))
        assert not list(run.rglob("journal*"))
    one, many = ((tmp_path / name / "adv.safetensors").read_bytes() for name in ("one", "many"))
    assert one == many


def test_images_that_are_there_are_not_made_again_and_missing_ones_are(tmp_path: Path) -> None:
    out, images = tmp_path / "out", tmp_path / "adv.safetensors"
    plain = scored(out, None)
    assert "images" not in json.loads((out / "record.json").read_text())
    before = (out / "samples.parquet").read_bytes()
    made = scored(out, images)
    assert plain.record.images is None
    assert made.record.images is not None
    assert (made.record.id, (out / "samples.parquet").read_bytes()) == (plain.record.id, before)
    model = trained()
    with recorded(model) as calls:
        evaluate(model, n=N, suite=CASCADE, threat=THREAT, out=out, save_images=images)
    # The noise that hashes a model in memory, and a look at it that repeats a few images, once for a gradient.
    assert sum(count for count, _ in calls) < 300
    assert sum(gradient for _, gradient in calls) == 1
    held = images.read_bytes()
    images.unlink()
    scored(out, images)
    assert images.read_bytes() == held
    pd_samples = read_samples(out)
    assert pd_samples["adversarial_prediction"].notna().sum() == made.record.images.broken


@pytest.mark.parametrize("name", ["adv.safetensors", "png"])
def test_what_is_there_is_never_overwritten(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    scored(None, target)
    before = files_in(tmp_path)
    with pytest.raises(InvalidValueError, match=f"{name} exists and does not hold images of this evaluation"):
        scored(None, target, seed=1)
    scored(None, target)  # the same evaluation writes the same bytes
    assert files_in(tmp_path) == before
    other = tmp_path / f"other-{name}"
    if name == "png":
        other.mkdir()
        (other / "notes.txt").write_text("mine")
    else:
        other.write_text("mine")
    before = files_in(tmp_path)
    with pytest.raises(InvalidValueError, match="exists and does not hold images"):
        scored(None, other)
    assert files_in(tmp_path) == before


def test_a_place_that_is_taken_is_refused_before_a_black_box_set_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "adv.safetensors").write_text("mine")
    with pytest.raises(InvalidValueError, match="exists and does not hold images"):
        scored(None, tmp_path / "adv.safetensors", suite="blackbox")
    assert [path.name for path in tmp_path.iterdir()] == ["adv.safetensors"]


def test_several_models_have_a_file_each(tmp_path: Path) -> None:
    runs = [a_run(tmp_path / "runs" / name) for name in ("a-s0", "b-s0")]
    with pytest.raises(
        InvalidValueError, match=r"more than one evaluation: put \{model\} where .*adv-\{model\}\.safet"
    ):
        evaluate_checkpoints(runs, suite="ifgsm3", n=8, save_images=tmp_path / "adv.safetensors")
    assert not list(tmp_path.rglob("evaluations"))
    evaluate_checkpoints(runs, suite="ifgsm3", n=8, save_images=tmp_path / "adv" / "{model}.safetensors")
    assert sorted(p.name for p in (tmp_path / "adv").iterdir()) == ["a-s0-best.safetensors", "b-s0-best.safetensors"]
    assert all(record.images for record in find_records(tmp_path / "runs"))


@pytest.mark.parametrize(
    ("choice", "options", "message"),
    [
        ("adv.npz", {}, "expected a .safetensors file"),
        ("adv.safetensors", {"eps": (4 / 255, 8 / 255)}, "with 2 eps: images of one eps are saved; give one eps"),
    ],
)
def test_refused_choices(tmp_path: Path, choice: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        evaluate_checkpoints([a_run(tmp_path / "s-s0")], suite="ifgsm3", n=8, save_images=tmp_path / choice, **options)
    assert not (tmp_path / choice).exists()


def test_png_files_take_one_channel_or_three(tmp_path: Path) -> None:
    for channels in (1, 3):
        adversarial.check_target(tmp_path / "png", "id", channels=channels)
    with pytest.raises(InvalidValueError, match="1 or 3 channels, the images 4"):
        adversarial.check_target(tmp_path / "png", "id", channels=4)
    adversarial.check_target(tmp_path / "adv.safetensors", "id", channels=4)
