import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from ensemble_bench.errors import CheckpointError
from ensemble_bench.files import sha256_file
from ensemble_bench.models import checkpoint
from ensemble_bench.models.architecture import Architecture
from ensemble_bench.models.build import build
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.records import opened, sealed

SMALL = Architecture(
    backbone="small_cnn", width=0.25, classes=10, image_shape=(1, 8, 8), mean=(0.3,), std=(0.4,), members=2
)
META = {"recipe": "ensemble2adv", "seed": 0, "seeds": [0], "step": 7, "threat": {"norm": "linf", "eps": 0.125}}


def trained(architecture: Architecture = SMALL, seed: int = 0) -> Ensemble:
    """A model whose batch norm statistics are no longer the initial ones."""
    model = build(architecture, seed=seed)
    model(torch.rand(16, *architecture.image_shape, generator=torch.Generator().manual_seed(seed)))
    return model


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "best.safetensors"
    checkpoint.save(path, trained(), SMALL, META)
    return path


def rewrite(path: Path, change: dict[str, Tensor], *, keep_hash: bool = False) -> None:
    """Put other weights into a checkpoint, and (unless `keep_hash`) make its JSON agree with them."""
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    weights = safetensors.torch.load_file(path) | change
    safetensors.torch.save_file({k: v for k, v in weights.items() if v.numel()}, path, metadata=metadata)
    if not keep_hash:
        edit_json(path, weights_hash=sha256_file(path))


def edit_json(path: Path, **values: Any) -> None:
    description = path.with_suffix(".json")
    description.write_text(json.dumps(sealed(opened(description.read_text()) | values)))


@pytest.mark.parametrize(
    "architecture",
    [
        SMALL,
        replace(SMALL, members=1),
        replace(SMALL, members=3, gated=True, aggregation="logit"),
        replace(SMALL, backbone="vgg16_bn", width=0.0625),
        replace(SMALL, backbone="preact_resnet18", width=0.0625, classes=3),
        replace(SMALL, backbone="wrn", depth=10, width=0.25),
    ],
    ids=lambda a: f"{a.backbone}-{a.members}",
)
@pytest.mark.parametrize("seed", [0, 1])
def test_load_of_save_is_the_same_model(architecture: Architecture, seed: int, tmp_path: Path) -> None:
    model, path = trained(architecture, seed), tmp_path / "last.safetensors"
    checkpoint.save(path, model, architecture, META)
    before = torch.get_rng_state()
    loaded = checkpoint.load(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    weights, expected = loaded.state_dict(), model.state_dict()
    assert list(weights) == list(expected)
    assert all(torch.equal(weights[key], expected[key]) for key in expected)
    assert not any(module.training for module in loaded.modules())
    x = torch.rand(5, *architecture.image_shape)
    assert torch.equal(loaded(x), model.eval()(x))
    assert loaded.info is not None
    assert loaded.info.architecture == architecture
    assert loaded.info.meta == META
    assert loaded.info.path == path
    assert loaded.info.weights_hash == sha256_file(path)
    assert loaded.info == checkpoint.read_info(path)
    assert loaded.aggregate_as("prob").info == loaded.info


def test_saving_what_was_loaded_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors"
    model = checkpoint.load(saved)
    assert model.info is not None
    checkpoint.save(again, model, model.info.architecture, model.info.meta)
    assert again.read_bytes() == saved.read_bytes()
    assert again.with_suffix(".json").read_bytes() == saved.with_suffix(".json").read_bytes()


def test_a_run_directory_means_best_then_last(saved: Path) -> None:
    last = saved.with_name("last.safetensors")
    checkpoint.save(last, trained(seed=1), SMALL, META)
    assert checkpoint.read_info(saved.parent).path == saved
    saved.unlink()
    assert checkpoint.read_info(str(saved.parent)).path == last
    assert checkpoint.load(str(last)).info is not None


def test_half_a_checkpoint_is_the_rounded_model(tmp_path: Path) -> None:
    model, path, whole = trained(), tmp_path / "half.safetensors", tmp_path / "whole.safetensors"
    checkpoint.save(whole, model, SMALL, META)
    checkpoint.save(path, model, SMALL, META, half=True)
    assert path.stat().st_size < whole.stat().st_size - 2 * sum(p.numel() for p in model.parameters())
    loaded = checkpoint.load(path)
    for name, value in model.state_dict().items():
        rounded = value.half().float() if value.is_floating_point() else value
        assert torch.equal(loaded.state_dict()[name], rounded)
        assert loaded.state_dict()[name].dtype == value.dtype
    assert checkpoint.is_unchanged(loaded)
    model.info = loaded.info
    assert not checkpoint.is_unchanged(model)  # its weights round to those of the file, and are others
    with torch.no_grad():
        next(model.parameters()).fill_(1e6)
    with pytest.raises(CheckpointError, match="infinite"):
        checkpoint.save(path, model, SMALL, META, half=True)
    assert checkpoint.load(path).info == loaded.info


@pytest.mark.parametrize("half", [False, True])
def test_lost_weights_are_restored_only_by_the_same(half: bool, tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    checkpoint.save(path, trained(), SMALL, META, half=half)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    path.unlink()
    with pytest.raises(CheckpointError, match=r"best\.safetensors: is described with other weights"):
        checkpoint.restore(path, trained(seed=1), half=half)
    assert list(tmp_path.iterdir()) == [path.with_suffix(".json")]
    checkpoint.restore(path, trained(), half=half)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_missing_sources_say_what_was_expected(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source, named in [
        (tmp_path / "empty", r"expected averaged, best or last.safetensors"),
        (tmp_path / "nowhere", r"does not exist, expected a run directory"),
        (saved.with_name("other.safetensors"), r"does not exist"),
    ]:
        for function in (checkpoint.load, checkpoint.read_info):
            with pytest.raises(CheckpointError, match=named) as caught:
                function(source)
            assert str(source) in str(caught.value)
            assert "\n" not in str(caught.value)


def test_a_description_without_weights_says_how_to_get_them(saved: Path) -> None:
    saved.unlink()
    with pytest.raises(CheckpointError, match=r"describes best\.safetensors, which is not there.*join them again"):
        checkpoint.load(saved.parent)


def test_weights_without_description(saved: Path) -> None:
    saved.with_suffix(".json").unlink()
    with pytest.raises(CheckpointError, match=r"best\.json is missing"):
        checkpoint.load(saved)


class Bomb:
    """Unpickling this runs code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (3,)


def test_pickles_are_never_loaded(saved: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "model.pt"
    torch.save({"bomb": Bomb()}, foreign)
    with pytest.raises(CheckpointError, match="not a safetensors checkpoint"):
        checkpoint.load(foreign)
    for content in (foreign.read_bytes(), pickle.dumps(Bomb())):
        saved.write_bytes(content)
        edit_json(saved, weights_hash=sha256_file(saved))
        with pytest.raises(CheckpointError, match="not a safetensors checkpoint but a pickle"):
            checkpoint.load(saved)


@pytest.mark.parametrize("kept", [0, 7, 8, 100, -1])
@pytest.mark.parametrize("same_hash", [False, True])
def test_truncated_weights(saved: Path, kept: int, same_hash: bool) -> None:
    saved.write_bytes(saved.read_bytes()[:kept])
    if same_hash:
        edit_json(saved, weights_hash=sha256_file(saved))
    with pytest.raises(CheckpointError, match=r"best\.safetensors: truncated or not a safetensors checkpoint"):
        checkpoint.load(saved)


def test_edited_weights_do_not_match_the_hash(saved: Path) -> None:
    rewrite(saved, {"members.0.network.linear.bias": torch.ones(10)}, keep_hash=True)
    with pytest.raises(CheckpointError, match="not the file that its"):
        checkpoint.load(saved)


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("members.1.network.linear.bias", torch.full((10,), torch.nan), "members.1.network.linear.bias holds NaN"),
        ("members.1.network.bn1.running_var", torch.full((4,), torch.inf), "running_var holds NaN or infinite"),
        ("members.0.network.linear.bias", torch.zeros(9), r"\(9,\), expected torch.float32 \(10,\)"),
        ("members.0.network.linear.bias", torch.zeros(10).half(), "torch.float16"),
        ("members.0.network.linear.bias", torch.zeros(0), "lacks members.0.network.linear.bias"),
        ("members.2.network.linear.bias", torch.zeros(10), "has an unexpected members.2.network.linear.bias"),
    ],
)
def test_weights_that_do_not_fit(saved: Path, name: str, value: Tensor, named: str) -> None:
    rewrite(saved, {name: value})
    with pytest.raises(CheckpointError, match=named):
        checkpoint.load(saved)


@pytest.mark.parametrize("change", [{"mean": [0.9]}, {"aggregation": "logit"}, {"members": 64}, {"width": 64}])
def test_an_edited_architecture_is_noticed(saved: Path, change: dict[str, Any]) -> None:
    edit_json(saved, architecture=SMALL.as_dict() | change)
    with pytest.raises(CheckpointError, match="another architecture"):
        checkpoint.load(saved)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "expected the keys schema, architecture"),
        ("{}", "expected the keys schema, architecture"),
        ({"schema": 2}, "schema is 2"),
        ({"meta": []}, "meta must be an object"),
        ({"weights_hash": None}, "weights_hash a string"),
        ({"architecture": {}}, "architecture lacks backbone"),
        ({"architecture": SMALL.as_dict() | {"width": 1e9}}, "width is 1000000000.0"),
        ({"extra": 1}, "expected the keys"),
    ],
)
def test_bad_descriptions(saved: Path, content: str | dict[str, Any], named: str) -> None:
    if isinstance(content, str):
        saved.with_suffix(".json").write_text(content)
    else:
        edit_json(saved, **content)
    for function in (checkpoint.load, checkpoint.read_info):
        with pytest.raises(CheckpointError, match=named) as caught:
            function(saved)
        assert "best.json" in str(caught.value)


def test_save_refuses_what_load_would(tmp_path: Path) -> None:
    path, model = tmp_path / "best.safetensors", trained()
    with pytest.raises(CheckpointError, match="ends with"):
        checkpoint.save(tmp_path / "best.pt", model, SMALL, META)
    with pytest.raises(CheckpointError, match="has an unexpected members"):
        checkpoint.save(path, model, replace(SMALL, members=1), META)
    with pytest.raises(CheckpointError, match="averages prob, its architecture logit"):
        checkpoint.save(path, model, replace(SMALL, aggregation="logit"), META)
    with pytest.raises(CheckpointError, match="not JSON"):
        checkpoint.save(path, model, SMALL, {"path": path})
    with pytest.raises(CheckpointError, match="not JSON"):
        checkpoint.save(path, model, SMALL, {"loss": float("nan")})
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(CheckpointError, match="holds NaN"):
        checkpoint.save(path, model, SMALL, META)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("failing_call", [1, 2])
def test_a_save_that_fails_keeps_the_old_checkpoint(
    saved: Path, failing_call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, calls, fsync = saved.read_bytes(), [0], os.fsync

    def full_disk(descriptor: int) -> None:
        calls[0] += 1
        # Each write syncs its file, then the directory.
        if calls[0] == 2 * failing_call - 1:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(saved, trained(seed=1), SMALL, {"new": True})
    monkeypatch.undo()
    assert saved.read_bytes() == old
    assert checkpoint.load(saved).info == checkpoint.read_info(saved)
    assert checkpoint.read_info(saved).meta == META
    assert sorted(p.name for p in saved.parent.iterdir()) == ["best.json", "best.safetensors"]


@pytest.mark.parametrize("renames", [0, 1, 2, 3])
def test_a_kill_between_any_two_renames_leaves_the_old_or_the_new_checkpoint(
    saved: Path, renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    count, replace_file = [0], os.replace

    def counted(source: Any, target: Any) -> None:
        if count[0] == renames:
            raise Killed
        count[0] += 1
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", counted)
    # A killed process cleans nothing up.
    monkeypatch.setattr(Path, "unlink", lambda *_args, **_options: None)
    new = trained(seed=1)
    if renames < 3:
        with pytest.raises(Killed):
            checkpoint.save(saved, new, SMALL, {"new": True})
    else:
        checkpoint.save(saved, new, SMALL, {"new": True})
    monkeypatch.undo()
    info = checkpoint.load(saved).info
    assert info == checkpoint.read_info(saved)
    assert info is not None
    assert info.meta == ({"new": True} if renames >= 2 else META)
    checkpoint.save(saved, new, SMALL, {"next": True})
    assert checkpoint.read_info(saved).meta == {"next": True}
    assert not saved.with_suffix(".json.pending").exists()


def test_no_stray_files(saved: Path) -> None:
    checkpoint.save(saved, trained(seed=1), SMALL, META)
    assert sorted(p.name for p in saved.parent.iterdir()) == ["best.json", "best.safetensors"]


def test_a_checkpoint_replaced_while_it_is_read_gives_one_of_both(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer may save between the reading of the description and that of the weights."""
    read_bytes, new = Path.read_bytes, trained(seed=1)

    def raced(self: Path) -> bytes:
        if self == saved:
            monkeypatch.undo()
            checkpoint.save(saved, new, SMALL, {"new": True})
        return read_bytes(self)

    monkeypatch.setattr(Path, "read_bytes", raced)
    model = checkpoint.load(saved)
    assert model.info is not None
    assert model.info.meta == {"new": True}
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in new.state_dict().items())
