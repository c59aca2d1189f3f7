"""What exists counts only if it is whole: sets, surrogates, checkpoints of finished runs, weights in bundles."""

import shutil
from pathlib import Path

import pytest
from small_models import ARCHITECTURE, SURROGATES, blackbox_set, trained

from ensemble_bench.attacks.blackbox.blackbox_set import load_blackbox
from ensemble_bench.cli import run
from ensemble_bench.errors import CheckpointError
from ensemble_bench.evaluation import blackbox
from ensemble_bench.evaluation.runner import evaluate_checkpoints
from ensemble_bench.models import checkpoint
from ensemble_bench.training import presets
from ensemble_bench.training.trainer import train


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the set in fixtures/, of which `build` can make the same again."""
    monkeypatch.setitem(presets.PRESETS, "tiny", SURROGATES)  # type: ignore[arg-type]
    return Path(shutil.copytree(blackbox_set().parent, tmp_path / "sets")) / "set.safetensors"


def built(path: Path) -> list[str]:
    """What building says."""
    told: list[str] = []
    blackbox.build("digits", out=path, n=60, progress=lambda *_, **fields: told.append(str(fields.get("status", ""))))
    return [line for line in told if line]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("file", ["set.safetensors", "set.json"])
def test_a_truncated_black_box_set_is_built_again(sets: Path, file: str) -> None:
    assert built(sets) == ["built before"]
    before = load_blackbox(sets)
    cut(sets.with_name(file))
    assert any("built again: " in line and file in line for line in built(sets))
    again = load_blackbox(sets)
    assert {**again.info, "hash": ""}.keys() == {**before.info, "hash": ""}.keys()
    assert built(sets) == ["built before"]


def test_a_truncated_surrogate_is_trained_again(sets: Path) -> None:
    sets.unlink()
    (surrogate, *_) = sorted(blackbox.surrogate_folder(sets).glob("*.safetensors"))
    cut(surrogate)
    assert any("trained again: " in line and surrogate.name in line for line in built(sets))
    checkpoint.load(surrogate)


@pytest.mark.parametrize("file", ["best.safetensors", "last.safetensors", "best.json", "last.json"])
def test_a_damaged_checkpoint_is_no_finished_run(tmp_path: Path, file: str) -> None:
    options = {"out": tmp_path / "run", "max_steps": 1, "settings": {"average": 0}}
    out = train("baseline", **options)  # type: ignore[arg-type]
    assert train("baseline", **options) == out  # type: ignore[arg-type]
    cut(out / file)
    with pytest.raises(
        CheckpointError, match=rf"{file}: .*; delete {out} and `ensemble-bench train`, with the options"
    ):
        train("baseline", **options)  # type: ignore[arg-type]


def test_a_damaged_part_of_a_join_is_named(tmp_path: Path) -> None:
    options = {"runs": tmp_path, "max_steps": 1, "settings": {"average": 0}}
    joined = train("separate2adv", **options)  # type: ignore[arg-type]
    cut(joined / "last.safetensors")
    with pytest.raises(CheckpointError, match=rf"{joined.name}/last\.safetensors: damaged"):
        train("separate2adv", **options)  # type: ignore[arg-type]


def test_weights_that_are_not_their_hash_are_not_bundled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, target = tmp_path / "a-run", tmp_path / "a-run.zip"
    meta = {"recipe": "singleadv", "preset": "tiny", "dataset": "digits", "threat": {"norm": "linf", "eps": 32 / 255}}
    checkpoint.save(folder / "best.safetensors", trained(), ARCHITECTURE, meta)
    evaluate_checkpoints([folder], suite="ifgsm1", n=8)
    weights = (folder / "best.safetensors").read_bytes()
    (folder / "best.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    capsys.readouterr()
    assert run(["bundle", str(folder), "--out", str(target)]) == 2
    assert f"{folder}/best.safetensors: damaged: not the file that its .json describes" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a-run"]
