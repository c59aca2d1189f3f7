"""What records, runs and bundles tell of data and models that only their user has."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import ARCHITECTURE, trained

import ensemble_bench as eb
from ensemble_bench.data import open_source
from ensemble_bench.errors import BundleError, InvalidValueError
from ensemble_bench.evaluation.runner import evaluate_checkpoints
from ensemble_bench.models import checkpoint
from ensemble_bench.records import read_record
from ensemble_bench.registry.places import homeless, place_of, told
from ensemble_bench.submissions import submit


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's home, with some digits as their own data, and a folder to work in that lies elsewhere."""
    home, work = tmp_path / "home" / "jane", tmp_path / "work"
    (home / "private").mkdir(parents=True)
    work.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work)
    x, y = eb.data.load("digits", n=60)
    x = (x * 255).round().to(torch.uint8)
    parts = {"x_train": x[:40], "y_train": y[:40], "x_test": x[40:], "y_test": y[40:]}
    np.savez(home / "private" / "mine.npz", **{name: part.numpy() for name, part in parts.items()})
    return home


def texts(folder: Path) -> dict[Path, str]:
    return {path: path.read_text() for path in folder.rglob("*") if path.suffix in (".json", ".csv", ".jsonl")}


def test_no_file_holds_the_path_of_a_home(home: Path) -> None:
    place = f"npz:{home}/private/mine.npz"
    run = eb.train("baseline", dataset=place, max_steps=1, settings={"batch_size": 16}, log_steps=True)
    network = trained().members[0].get_submodule("network")
    torch.save(network.state_dict(), home / "private" / "w.pt")
    (own,) = evaluate_checkpoints([run], suite="ifgsm1", n=4)  # finds the data again
    (theirs,) = evaluate_checkpoints(
        [home / "private" / "w.pt"], arch="small_cnn-0.5", dataset=place, suite="ifgsm1", n=4
    )
    assert (own.dataset, own.data_name, theirs.dataset) == ("npz:mine.npz", "mine", "npz:mine.npz")
    assert own.data_hash == theirs.data_hash == open_source(place).fingerprint
    assert theirs.model == "~/private/w.pt"
    assert len(texts(Path())) > 4
    assert not [path for path, text in texts(Path()).items() if str(home) in text or "jane" in str(path)]
    for record in (own, theirs):
        assert record.path is not None
        assert read_record(record.path) == record
    # Under its text the model is found again, as everywhere.
    (again,) = evaluate_checkpoints(
        [home / "private" / "w.pt"], arch="small_cnn-0.5", dataset=place, suite="ifgsm1", n=4
    )
    assert again == theirs


def test_data_that_moved_are_known_by_their_hash(home: Path) -> None:
    settings = {"batch_size": 16}
    run = eb.train("baseline", dataset=f"npz:{home}/private/mine.npz", max_steps=1, settings=settings, out="run")
    source = open_source(f"npz:{home}/private/mine.npz")
    (home / "private" / "mine.npz").rename(home / "mine.npz")
    moved = f"npz:{home}/mine.npz"
    assert eb.train("baseline", dataset=moved, max_steps=1, settings=settings, out="run") == run
    assert open_source(moved).fingerprint == source.fingerprint
    with pytest.raises(InvalidValueError, match="data_name is 'mine' there, 'digits' here"):
        eb.train("baseline", max_steps=1, settings=settings, out="run")


def test_names_of_places() -> None:
    home = str(Path.home())
    for text, shorter in (
        (f"{home}/a/w.pt", "~/a/w.pt"),
        (f"hf:{home}/vit+{home}/b", "hf:~/vit+~/b"),
        (f"folder:{home}/a?resize=8", "folder:~/a?resize=8"),
        (f"/data{home}/a", f"/data{home}/a"),
        (f"{home}x/a", f"{home}x/a"),
        ("timm:resnet18", "timm:resnet18"),
    ):
        assert homeless(text) == shorter
    assert told(f"folder:{home}/flowers?resize=64&crop=32") == "folder:flowers?resize=64&crop=32"
    assert told("cifar10") == "cifar10"
    place = place_of(f"folder:{home}/flowers?resize=64")
    assert place is not None
    assert place_of(place.kept) == place


def test_a_bundle_claims_what_others_can_repeat(home: Path) -> None:
    run = eb.train("baseline", dataset=f"npz:{home}/private/mine.npz", max_steps=1, settings={"batch_size": 16})
    evaluate_checkpoints([run], suite="ifgsm1", n=4)
    message = r"was scored on npz:mine\.npz, which nobody else has: a bundle claims what others can repeat, on .*digits"
    with pytest.raises(BundleError, match=message) as raised:
        eb.bundle(run)
    assert str(home) not in str(raised.value)
    with pytest.raises(BundleError, match=message):
        submit.submit(run, "boards")
    assert not Path("boards").exists()
    evaluate_checkpoints([run], dataset="digits", suite="ifgsm1", n=4)
    assert eb.bundle(run, name="shared").exists()


def test_what_has_no_bundle_is_told(home: Path) -> None:
    checkpoint.save(Path("run/best.safetensors"), trained(), ARCHITECTURE, {"dataset": "digits"})
    evaluate_checkpoints(["run"], suite="ifgsm1", n=4)
    assert eb.bundle(eb.load("run"), name="loaded").exists()
    for model in ("timm:resnet10t", "a:b+c:d", trained(), torch.nn.Flatten()):
        with pytest.raises(
            (BundleError, InvalidValueError), match=r"only a run that was trained here|run is a Flatten"
        ):
            eb.bundle(model)  # type: ignore[arg-type]
