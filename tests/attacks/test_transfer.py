"""Black-box sets: what is kept fools both surrogates, and only the images that a set holds are attacked."""

import json
from pathlib import Path

import pytest
import torch
from small_models import blackbox_set, images, recorded, trained
from torch import Tensor

from ensemble_bench import ThreatModel, attacks, data
from ensemble_bench.attacks.blackbox.blackbox_set import BlackboxSet, load_blackbox, save_blackbox
from ensemble_bench.errors import AttackError, DataError, InvalidValueError
from ensemble_bench.evaluation.blackbox import surrogate_folder
from ensemble_bench.models import checkpoint

THREAT = ThreatModel(eps=32 / 255)


@pytest.fixture(scope="module")
def held() -> BlackboxSet:
    return load_blackbox(blackbox_set())


@pytest.fixture(scope="module")
def test_images() -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels and ids that the set was made from."""
    split = data.open_source("digits").split("test").first(60)
    return *split.batch(slice(None)), split.ids


def test_every_image_kept_fools_both_surrogates(held: BlackboxSet, test_images: tuple[Tensor, Tensor, Tensor]) -> None:
    x, y, ids = test_images
    files = sorted(surrogate_folder(blackbox_set()).glob("*.safetensors"))
    assert len(files) == 2
    fooled = []
    for file in files:
        surrogate = checkpoint.load(file)
        with torch.no_grad():
            fooled.append(surrogate(held.x_adv).argmax(dim=1) != held.labels)
            accuracy = (surrogate(x).argmax(dim=1) == y).double().mean().item()
        told = next(s for s in held.info["surrogates"] if s["weights_hash"] == surrogate.info.weights_hash)
        assert told["accuracy"] == pytest.approx(accuracy)
    assert torch.stack(fooled).all()
    assert 5 < len(held) <= 60
    assert held.info["keep_rate"] == len(held) / 60
    row_of = {image: row for row, image in enumerate(ids.tolist())}
    rows = [row_of[image] for image in held.ids.tolist()]
    assert torch.equal(held.labels, y[rows])
    THREAT.check(held.x_adv, x[rows])
    assert THREAT.distance(held.x_adv, x[rows]).min() > 0


def test_only_images_of_the_set_are_attacked(held: BlackboxSet, test_images: tuple[Tensor, Tensor, Tensor]) -> None:
    x, y, ids = test_images
    attack, model = attacks.get("blackbox", path=blackbox_set()), trained()
    covered = attack.covers(ids)
    assert covered.sum() == len(held) < 60
    outcome = attack.run(model, x, y, THREAT, ids=ids)
    with torch.no_grad():
        right = model(x).argmax(dim=1) == y
        assert torch.equal(outcome.broken, model(outcome.x_adv).argmax(dim=1) != y)
    untouched = ~covered | ~right
    assert torch.equal(outcome.x_adv[untouched], x[untouched])
    shown = covered & right
    at = torch.searchsorted(held.ids, ids[shown])
    assert torch.equal(outcome.x_adv[shown], held.x_adv[at])
    assert not outcome.steps.any()


def test_batch_size_and_order_change_nothing(test_images: tuple[Tensor, Tensor, Tensor]) -> None:
    x, y, ids = test_images
    attack, model = attacks.get("blackbox", path=blackbox_set()), trained()
    base = attack.run(model, x, y, THREAT, ids=ids)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    with recorded(model) as calls:
        other = attack.run(model, x[order], y[order], THREAT, ids=ids[order], batch_size=7)
    assert torch.equal(other.broken, base.broken[order])
    assert max(n for n, _ in calls) == 7
    assert sum(n for n, _ in calls) == other.passes


def test_images_that_the_set_does_not_hold_are_fine() -> None:
    x, y = images(5)
    outcome = attacks.get("blackbox", path=blackbox_set()).run(trained(), x, y, THREAT, ids=torch.arange(5) + 10**6)
    assert torch.equal(outcome.x_adv, x)
    empty = attacks.get("blackbox", path=blackbox_set()).run(trained(), x[:0], y[:0], THREAT)
    assert len(empty.broken) == 0


def test_wrong_labels_shapes_and_threats_raise(test_images: tuple[Tensor, Tensor, Tensor]) -> None:
    x, y, ids = test_images
    attack, model = attacks.get("blackbox", path=blackbox_set()), trained()
    with pytest.raises(InvalidValueError, match="labels are not those"):
        attack(model, x, (y + 1) % 10, THREAT, ids=ids)
    with pytest.raises(InvalidValueError, match=r"images have shape \(1, 8, 8\), those under attack \(1, 8, 9\)"):
        attack(model, torch.cat([x, x[..., :1]], dim=3), y, THREAT, ids=ids)
    with pytest.raises(AttackError, match="leaves the linf ball"):
        attack(model, x, y, ThreatModel(eps=0.01), ids=ids)


def test_a_missing_set_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="blackbox needs path="):
        attacks.get("blackbox")
    with pytest.raises(DataError, match="blackbox build"):
        attacks.get("blackbox", path=tmp_path / "none.safetensors")


def test_settings_name_the_content_not_the_place(held: BlackboxSet) -> None:
    settings = attacks.get("blackbox", path=str(blackbox_set())).settings()
    assert settings == {"name": "blackbox", "hash": held.info["hash"]}


@pytest.mark.parametrize("damage", ["edited", "truncated", "foreign", "json", "no json", "order", "range"])
def test_damaged_sets_raise(held: BlackboxSet, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "set.safetensors"
    info = {key: value for key, value in held.info.items() if key != "hash"}
    ids, x_adv = held.ids, held.x_adv
    if damage == "order":
        ids = ids.flip(0)
    if damage == "range":
        x_adv = x_adv + 1
    save_blackbox(path, ids=ids, x_adv=x_adv, labels=held.labels, info=info)
    content = path.read_bytes()
    if damage == "edited":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "truncated":
        path.write_bytes(content[:-100])
    elif damage == "foreign":
        path = path.rename(tmp_path / "set.pt")
    elif damage == "json":
        path.with_suffix(".json").write_text(json.dumps({"hash": "x"}))
    elif damage == "no json":
        path.with_suffix(".json").unlink()
    with pytest.raises(DataError, match="set"):
        attacks.get("blackbox", path=path)


def test_save_then_load_gives_the_same_set(held: BlackboxSet, tmp_path: Path) -> None:
    info = {key: value for key, value in held.info.items() if key != "hash"}
    save_blackbox(tmp_path / "a.safetensors", ids=held.ids, x_adv=held.x_adv, labels=held.labels, info=info)
    again = load_blackbox(tmp_path / "a.safetensors")
    assert again.info == held.info
    assert torch.equal(again.ids, held.ids)
    assert torch.equal(again.x_adv, held.x_adv)
    assert again.threat == THREAT
