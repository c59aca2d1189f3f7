"""Black-box sets: every kept image fools both surrogates, stays in its ball, and nothing damaged is read."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_models import SURROGATES, blackbox_set

import ensemble_bench as eb
from ensemble_bench.attacks.blackbox.blackbox_set import load_blackbox
from ensemble_bench.data import DataSource
from ensemble_bench.errors import DataError, InvalidValueError
from ensemble_bench.evaluation import blackbox
from ensemble_bench.evaluation.blackbox import FIRST_SEED, build, default_out, expected, surrogate_folder
from ensemble_bench.models import checkpoint
from ensemble_bench.models.build import build as build_model
from ensemble_bench.training import presets

N = 60


def _build(out: Path, *, tiny: presets.Preset = SURROGATES, **choices: object) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(presets.PRESETS, "tiny", tiny)  # type: ignore[misc]
        return build("digits", out=out, **({"n": N} | choices))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built against the surrogates of fixtures/, of which no verdict is close."""
    out = tmp_path_factory.mktemp("blackbox") / "digits.v1"
    shutil.copytree(surrogate_folder(blackbox_set()), f"{out}-surrogates")
    return _build(out)


def test_it_is_the_set_that_was_built_elsewhere(made: Path) -> None:
    held, fixed = load_blackbox(made), load_blackbox(blackbox_set())
    assert torch.equal(held.ids, fixed.ids)
    assert torch.equal(held.labels, fixed.labels)
    unsaid = {"hash", "versions", "commit"}
    assert {k: v for k, v in held.info.items() if k not in unsaid} == {
        k: v for k, v in fixed.info.items() if k not in unsaid
    }


def test_surrogates_are_those_of_the_preset_and_learn(tmp_path: Path) -> None:
    tiny = presets.PRESETS["tiny"]
    settings = replace(tiny.on("digits"), surrogate_epochs=0.5)
    heard: list[tuple[str, object]] = []

    def progress(label: str, done: int, total: int, **fields: float | str) -> None:
        heard.append((label, fields.get("status")))

    path = _build(tmp_path / "new", tiny=replace(tiny, settings={"digits": settings}), n=8, progress=progress)
    # Said before anything is trained: what will be, and how long it may take.
    label, cost = heard[0]
    assert label == "black-box set new"
    assert str(cost).startswith("surrogates small_cnn-1 (5 steps) and vgg16_bn-0.125 (5 steps), then 8 test images")
    assert [what.split()[0] for what, _ in heard[1:]] == ["train"] * 10 + ["black-box"]
    for file, network in zip(sorted(surrogate_folder(path).glob("*.safetensors")), settings.surrogates, strict=True):
        info = checkpoint.read_info(file)
        assert (info.architecture.backbone, info.architecture.width) == (network.backbone, network.width)
        assert info.meta["step"] == 5
        seed = FIRST_SEED + int(file.name[0])
        new = build_model(info.architecture, seed=seed).state_dict()
        assert any(not torch.equal(value, new[name]) for name, value in checkpoint.load(file).state_dict().items())


def test_every_kept_image_fools_both_surrogates(made: Path, digits: DataSource) -> None:
    held = load_blackbox(made)
    surrogates = [eb.load(path) for path in sorted(surrogate_folder(made).glob("*.safetensors"))]
    assert len(surrogates) == 2
    with torch.no_grad():
        for model in surrogates:
            assert (model(held.x_adv).argmax(dim=1) != held.labels).all()
    assert held.info["keep_rate"] == len(held) / N
    assert 0 < len(held) < N


def test_kept_images_are_the_test_images_inside_the_ball(made: Path, digits: DataSource) -> None:
    held, test = load_blackbox(made), digits.split("test").first(N)
    row_of = {image: row for row, image in enumerate(test.ids.tolist())}
    x, y = test.batch([row_of[image] for image in held.ids.tolist()])
    assert torch.equal(y, held.labels)
    assert held.threat == eb.ThreatModel(eps=digits.default_eps)
    held.threat.check(held.x_adv, x)
    assert held.x_adv.dtype == torch.float32


def test_images_left_out_fool_not_both(made: Path, digits: DataSource) -> None:
    """The attack that the set's JSON names, run again here, fools both on the kept images and on no other."""
    held, test = load_blackbox(made), digits.split("test").first(N)
    surrogates = [eb.load(path) for path in sorted(surrogate_folder(made).glob("*.safetensors"))]
    mean_logits = eb.Ensemble([m for model in surrogates for m in model.members], aggregation="logit")
    attack = eb.attacks.get("pgd20", stop_early=False)
    assert held.info["attack"] == json.loads(json.dumps(attack.settings()))
    x, y = test.batch(slice(None))
    x_adv = attack(mean_logits, x, y, held.threat, seed=0, ids=test.ids, batch_size=16)
    with torch.no_grad():
        fooled = torch.stack([model(x_adv).argmax(dim=1) != y for model in surrogates]).all(dim=0)
    assert set(test.ids[fooled].tolist()) == set(held.ids.tolist())


def test_surrogates_are_described_and_accurate(made: Path, digits: DataSource) -> None:
    x, y = digits.split("test").first(N).batch(slice(None))
    for described, path in zip(
        load_blackbox(made).info["surrogates"], sorted(surrogate_folder(made).glob("*.safetensors")), strict=True
    ):
        model = eb.load(path)
        assert described["backbone"] == model.info.architecture.backbone
        assert described["weights_hash"] == model.info.weights_hash
        with torch.no_grad():
            assert described["accuracy"] == (model(x).argmax(dim=1) == y).double().mean().item()


def test_a_set_that_exists_is_kept_and_another_is_refused(made: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.parent.rglob("*")}
    said: list[dict[str, object]] = []
    assert _build(made, progress=lambda label, done, total, **fields: said.append(fields)) == made
    assert said == [{"status": "built before"}]
    for other, message in (({"eps": 0.05}, "threat.eps"), ({"seed": 1}, "seed is 0"), ({"n": 40}, "considered is 60")):
        with pytest.raises(InvalidValueError, match=message):
            _build(made, **other)
    assert {path: path.stat().st_mtime_ns for path in made.parent.rglob("*")} == before


def test_what_it_will_take_counts_no_surrogate_that_is_trained(
    digits: DataSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blackbox, "seconds_a_pass", lambda *_, **__: 0.5)
    settings = replace(presets.PRESETS["tiny"].on("digits"), surrogate_epochs=2)
    steps = 2 * (len(digits.split("train")) // settings.batch_size)
    whole = expected(digits, settings, images=10, device=torch.device("cpu"))
    half = expected(digits, settings, images=10, device=torch.device("cpu"), trained=(True, False))
    assert (whole.steps, half.steps) == ((steps, steps), (0, steps))
    assert whole.passes == half.passes == 10 * 42
    assert half.seconds == 0.5 * (2 * 420 + 3 * steps * settings.batch_size)
    assert whole.seconds - half.seconds == 0.5 * 3 * steps * settings.batch_size
    assert "(trained before)" in str(half)


def test_surrogates_that_exist_are_not_trained_again(made: Path, tmp_path: Path) -> None:
    shutil.copytree(surrogate_folder(made), tmp_path / "again-surrogates")
    labels: list[str] = []
    again = _build(tmp_path / "again", progress=lambda label, *_, **__: labels.append(label))
    assert not any("surrogate" in label for label in labels)
    assert again.read_bytes() == made.read_bytes()
    shutil.copytree(surrogate_folder(made), tmp_path / "other-surrogates")
    with pytest.raises(InvalidValueError, match="another surrogate"):
        _build(tmp_path / "other", seed=1)


def _damaged(made: Path, tmp_path: Path) -> Path:
    path = tmp_path / made.name
    shutil.copy(made, path)
    shutil.copy(made.with_suffix(".json"), path.with_suffix(".json"))
    return path


def test_damaged_sets_are_refused(made: Path, tmp_path: Path) -> None:
    path = _damaged(made, tmp_path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match="hash"):
        load_blackbox(path)
    info = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({k: v for k, v in info.items() if k != "keep_rate"}))
    with pytest.raises(DataError, match="does not describe"):
        load_blackbox(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(DataError, match="blackbox build"):
        load_blackbox(path)
    with pytest.raises(DataError, match=r"\.safetensors"):
        load_blackbox(tmp_path / "set.pt")


def test_the_transfer_attack_reads_it(made: Path, digits: DataSource) -> None:
    held, test = load_blackbox(made), digits.split("test").first(N)
    x, y = test.batch(slice(None))
    surrogate = eb.load(sorted(surrogate_folder(made).glob("*.safetensors"))[0])
    x_adv = eb.attacks.get("blackbox", path=made)(surrogate, x, y, held.threat, ids=test.ids)
    with torch.no_grad():
        wrong = surrogate(x_adv).argmax(dim=1) != y
    assert wrong[torch.isin(test.ids, held.ids)].all()


def test_default_names_tell_sets_apart() -> None:
    names = {
        default_out("digits", preset, eb.ThreatModel(norm=norm, eps=eps), seed=seed).name
        for preset in ("tiny", "small")
        for norm, eps in (("linf", 8 / 255), ("linf", 0.031), ("l2", 0.5))
        for seed in (0, 1)
    }
    assert len(names) == 12
    assert "digits-tiny-linf8of255-s0" in names
    assert not any("." in name for name in names)


def test_refused_choices(tmp_path: Path) -> None:
    for choices, message in (
        ({"preset": "tinny"}, "did you mean tiny"),
        ({"seed": -1}, "seed is -1"),
        ({"n": 10**6}, "n is 1000000"),
        ({"norm": "l2"}, "give eps"),
        ({"eps": -1.0}, "eps is -1.0"),
    ):
        with pytest.raises(InvalidValueError, match=message):
            _build(tmp_path / "set", **choices)
    assert list(tmp_path.iterdir()) == []
