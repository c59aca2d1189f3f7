"""What is verified is published by name, whole after a cut at any moment, and loads from the zoo."""

import csv
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sample_bundles import SUITE, honest, make_run, tree
from small_models import images, trained

import ensemble_bench as eb
from ensemble_bench import files
from ensemble_bench.errors import BundleError, CheckpointError, UnknownNameError
from ensemble_bench.files import sha256_file
from ensemble_bench.leaderboard import leaderboard_csv
from ensemble_bench.leaderboard.site.models import read_models
from ensemble_bench.leaderboard.verified import read_verified
from ensemble_bench.records import find_records
from ensemble_bench.submissions import placing, publishing, zoo
from ensemble_bench.submissions.bundling import bundle
from ensemble_bench.submissions.publishing import check_free, publish
from ensemble_bench.submissions.verification import Verification, verify


@pytest.fixture(scope="module")
def verified(tmp_path_factory: pytest.TempPathFactory) -> tuple[Verification, Path]:
    work = tmp_path_factory.mktemp("work")
    return verify(honest(), work=work), work / "bundle"


BOARD = "digits/linf32of255"


def test_a_board_holds_weights_records_and_verdict(verified: tuple[Verification, Path], tmp_path: Path) -> None:
    board = publish(*verified, tmp_path)
    assert board == tmp_path / BOARD
    (record,) = find_records(board / "records")
    assert record == verified[0].records[0]
    assert record.path == board / "records" / "mine" / "evaluations" / record.path.parent.name / "record.json"  # type: ignore[union-attr]
    weights = board / "weights" / "mine"
    assert sha256_file(weights / "best.safetensors") == record.weights_hash
    assert (board / "leaderboard.csv").read_text() == leaderboard_csv([record], root=board)
    told = read_verified(board / "verified" / "mine.json")
    assert told == verified[0].verified()
    verdict = told.on(record)
    assert verdict is not None
    assert (verdict.status, verdict.suite, verdict.n, verdict.images) == ("verified", SUITE, 60, 360)
    assert f"{100 * record.robust.accuracy:.1f} %" in (weights / "README.md").read_text()
    # There is no RobustBench entry without AutoAttack's figure.
    assert not (board / "model_info").exists()
    x, _ = images(5)
    assert torch.equal(eb.load(weights)(x), trained()(x))


def test_publishing_again_changes_nothing(verified: tuple[Verification, Path], tmp_path: Path) -> None:
    publish(*verified, tmp_path)
    before = tree(tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    publish(*verified, tmp_path)
    assert tree(tmp_path) == before
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == stamps


class Killed(BaseException):
    pass


def cut(monkeypatch: pytest.MonkeyPatch, last: int, *, killed: bool) -> None:
    """Have the move of a file to its place raise, from the `last` on; a killed process cleans nothing up."""
    moves, real = 0, Path.replace

    def replace_until(self: Path, target: Path) -> Path:
        nonlocal moves
        if self.parent.suffix == ".tmp" and self.suffix != ".before":
            moves += 1
            if moves >= last:
                raise Killed
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace_until)
    if killed:
        monkeypatch.setattr(placing, "_put_back", lambda *_: None)
        monkeypatch.setattr(placing, "_remove_empty", lambda *_: None)


def test_a_kill_at_any_moment_is_mended_by_publishing_again(
    verified: tuple[Verification, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tree(publish(*verified, tmp_path / "whole").parents[1])
    for last in range(1, 20):
        root = tmp_path / str(last)
        with monkeypatch.context() as patch:
            cut(patch, last, killed=True)
            try:
                publish(*verified, root)
            except Killed:
                assert read_models(root) == []  # without a verdict nothing is shown
            else:
                # The moved files, and the rendering of the board.
                assert last == sum(content is not None for content in whole.values())
                return
        for record in find_records(root):
            assert (root / BOARD / "weights" / f"{record.model}.safetensors").exists()
            assert (record.path.parent / "samples.parquet").exists()  # type: ignore[union-attr]
        publish(*verified, root)
        assert tree(root) == whole
    pytest.fail("it never ended")


@pytest.mark.parametrize("published", [False, True])
def test_whatever_is_raised_takes_everything_back(
    verified: tuple[Verification, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, published: bool
) -> None:
    root = tmp_path / "boards"
    root.mkdir()
    if published:
        fewer = verify(honest(), n=20, work=tmp_path / "work")
        publish(fewer, tmp_path / "work" / "bundle", root)
    before = tree(root)
    for last in range(1, 5):
        with monkeypatch.context() as patch:
            cut(patch, last, killed=False)
            with pytest.raises(Killed):
                publish(*verified, root)
        assert tree(root) == before
    for place, name in ((publishing, "leaderboard_csv"), (publishing.card, "render"), (placing.os, "fsync")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                publish(*verified, root)
        assert tree(root) == before


def test_what_a_killed_publication_left_is_withdrawn(
    verified: tuple[Verification, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board, told = publish(*verified, tmp_path / "whole"), str(verified[0].weights_hash)
    before = tree(board)
    publishing.withdraw("mine", told, tmp_path / "whole")
    assert tree(board) == before  # it has a verdict
    with monkeypatch.context() as patch:
        cut(patch, 4, killed=True)
        with pytest.raises(Killed):
            publish(*verified, tmp_path / "cut")
    publishing.withdraw("mine", f"sha256:{'0' * 64}", tmp_path / "cut")
    assert find_records(tmp_path / "cut") or list((tmp_path / "cut").rglob("*.safetensors"))
    publishing.withdraw("mine", told, tmp_path / "cut")
    assert not [path for path in (tmp_path / "cut").rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def another(tmp_path_factory: pytest.TempPathFactory) -> tuple[Verification, Path]:
    """Another model than `verified`, ready to be published beside it."""
    folder = tmp_path_factory.mktemp("another")
    path = bundle(make_run(folder / "runs" / "theirs", trained(seed=1)), out=folder / "theirs.zip")
    return verify(path, work=folder / "work"), folder / "work" / "bundle"


@pytest.mark.parametrize("one_name", [False, True])
def test_of_two_at_once_none_is_lost_and_a_name_is_one_models(
    verified: tuple[Verification, Path],
    another: tuple[Verification, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    one_name: bool,
) -> None:
    """The second begins while the first has looked at names and board, and has written nothing of what it found."""
    second = (replace(another[0], name="mine"), another[1]) if one_name else another
    real, threads, refused = publishing.card.render, list[threading.Thread](), list[str]()

    def publish_second() -> None:
        try:
            publish(*second, tmp_path)
        except BundleError as error:
            refused.append(str(error))

    def render(*arguments: Any, **options: Any) -> Any:
        if not threads:
            threads.append(threading.Thread(target=publish_second))
            threads[0].start()
            threads[0].join(1)
        return real(*arguments, **options)

    monkeypatch.setattr(publishing.card, "render", render)
    publish(*verified, tmp_path)
    threads[0].join()
    rows = list(csv.DictReader((tmp_path / BOARD / "leaderboard.csv").open()))
    names = ["mine/best"] if one_name else ["mine/best", "theirs/best"]
    assert sorted(row["model"] for row in rows) == names
    assert [home.name for home in sorted((tmp_path / BOARD / "weights").iterdir())] == [n.split("/")[0] for n in names]
    assert len(find_records(tmp_path)) == len(names)
    assert bool(refused) == one_name
    assert not list(tmp_path.rglob("*.lock"))


def test_names_are_taken_once(verified: tuple[Verification, Path], tmp_path: Path) -> None:
    publish(*verified, tmp_path / "boards")
    run = make_run(tmp_path / "runs" / "mine", trained(seed=1))
    path = bundle(run, out=tmp_path / "other.zip")
    other = verify(path, work=tmp_path / "work")
    before = tree(tmp_path / "boards")
    with pytest.raises(BundleError, match="name 'mine' is that of another model"):
        publish(other, tmp_path / "work" / "bundle", tmp_path / "boards")
    with pytest.raises(BundleError, match="in its case alone"):
        check_free("MINE/best", str(other.weights_hash), tmp_path / "boards")
    assert tree(tmp_path / "boards") == before
    check_free("other/best", str(other.weights_hash), tmp_path / "boards")
    check_free("mine/best", str(verified[0].weights_hash), tmp_path / "boards")


def test_only_what_was_verified_is_published(verified: tuple[Verification, Path], tmp_path: Path) -> None:
    result, folder = verified
    for status in ("not reproduced", "refused"):
        with pytest.raises(BundleError, match=f"mine: {status}, so it is not published"):
            publish(replace(result, status=status), folder, tmp_path / "boards")
    with pytest.raises(BundleError, match="not the weights that were verified"):
        publish(replace(result, weights_hash="sha256:" + "0" * 64), folder, tmp_path / "boards")
    assert not (tmp_path / "boards").exists()


def test_more_evaluations_of_a_model_join_those_before(verified: tuple[Verification, Path], tmp_path: Path) -> None:
    publish(*verified, tmp_path / "boards")
    fewer = verify(honest(), n=20, work=tmp_path / "work")
    board = publish(fewer, tmp_path / "work" / "bundle", tmp_path / "boards")
    assert sorted(record.n for record in find_records(board / "records")) == [20, 60]
    card = (board / "weights" / "mine" / "README.md").read_text()
    assert all(f"| {SUITE} | {n} |" in card for n in (20, 60))


def test_verdicts_on_other_records_of_the_same_weights_stay(
    verified: tuple[Verification, Path], tmp_path: Path
) -> None:
    told = verified[0].verified()
    (mine,) = told.verdicts
    other = replace(mine, record="0" * 64, suite="strongest")
    path = tmp_path / BOARD / "verified" / "mine.json"
    early = replace(mine, date="2020")
    for weights_hash, expected in ((told.weights_hash, (early, other)), ("sha256:" + 64 * "0", (mine,))):
        before = replace(told, weights_hash=weights_hash, verdicts=(early, other))
        files.write_atomic(path, json.dumps(before.as_dict()))
        publish(*verified, tmp_path)
        found = read_verified(path)
        assert found is not None
        assert found.verdicts == expected


def test_a_robustbench_entry_tells_our_figures(verified: tuple[Verification, Path], tmp_path: Path) -> None:
    result, folder = verified
    from ensemble_bench.leaderboard import model_info
    from ensemble_bench.records import read_record, write_record

    measured = tmp_path / "evaluations" / "x"
    write_record(replace(result.records[0], suite="autoattack"), measured)
    (measured / "samples.parquet").write_bytes((result.records[0].path.parent / "samples.parquet").read_bytes())  # type: ignore[union-attr]
    told = replace(
        result, records=(read_record(measured),), info=replace(result.info, authors="A. Uthor", clean_acc="100")
    )  # type: ignore[type-var]
    entry = model_info.read(publish(told, folder, tmp_path / "boards") / "model_info" / "mine.json")
    assert entry.authors == "A. Uthor"
    assert entry.clean == pytest.approx(result.records[0].clean.accuracy, abs=5e-5)
    assert entry.autoattack == pytest.approx(result.records[0].robust.accuracy, abs=5e-5)


def test_the_zoo_loads_by_name(
    verified: tuple[Verification, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(*verified, tmp_path)
    monkeypatch.setenv("ENSEMBLE_BENCH_ZOO", str(tmp_path))
    x, _ = images(5)
    assert torch.equal(zoo.load_model("mine", folder=Path("models"), data=None)(x), trained()(x))
    assert torch.equal(eb.load("zoo:mine")(x), trained()(x))
    assert zoo.find("mine") == zoo.find(f"{BOARD}/mine") == tmp_path / BOARD / "weights" / "mine" / "best.safetensors"
    assert zoo.meta("mine")["dataset"] == "digits"
    with pytest.raises(UnknownNameError, match="unknown published model 'mime': did you mean mine"):
        zoo.find("mime")
    for name in ("../weights/mine", "digits/linf8of255/mine", "*", ""):
        with pytest.raises(UnknownNameError):
            zoo.find(name)
    with pytest.raises(CheckpointError, match="no published models"):
        zoo.find("mine", tmp_path / "elsewhere")


def test_the_zoo_checks_what_it_loads(verified: tuple[Verification, Path], tmp_path: Path) -> None:
    board = publish(*verified, tmp_path)
    file = board / "weights" / "mine" / "best.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="is not the file that its"):
        eb.load(zoo.find("mine", tmp_path))


def test_one_name_on_two_boards(verified: tuple[Verification, Path], tmp_path: Path) -> None:
    board = publish(*verified, tmp_path)
    same = tmp_path / "digits" / "l2-1"
    board.joinpath("weights").rename(same.parent / "copy")
    for target in (board, same):
        target.mkdir(exist_ok=True)
        for path in (same.parent / "copy" / "mine").iterdir():
            (target / "weights" / "mine").mkdir(parents=True, exist_ok=True)
            (target / "weights" / "mine" / path.name).write_bytes(path.read_bytes())
    assert zoo.find("mine", tmp_path).name == "best.safetensors"
    from sample_bundles import META
    from small_models import ARCHITECTURE

    from ensemble_bench.models import checkpoint

    checkpoint.save(same / "weights" / "mine" / "best.safetensors", trained(seed=1), ARCHITECTURE, META)
    with pytest.raises(CheckpointError, match="zoo:digits/l2-1/mine and zoo:digits/linf32of255/mine"):
        zoo.find("mine", tmp_path)
    assert zoo.find("digits/l2-1/mine", tmp_path).parent == same / "weights" / "mine"


def test_what_the_repository_publishes_is_in_the_zoo() -> None:
    root = Path(__file__).resolve().parents[2] / "leaderboards"
    for home in root.glob("*/*/weights/*"):
        assert zoo.find(home.name, root).parent == home
