"""RobustBench's entries: every published one reads and is written back as it was; a bad one is one clear line."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic_runs import HASH, WARNING, record_of

from ensemble_bench.errors import RecordError
from ensemble_bench.leaderboard.model_info import (
    LARGEST,
    ModelInfo,
    architecture_text,
    from_records,
    read,
    read_all,
    read_corruptions,
    write,
)
from ensemble_bench.leaderboard.ranking import NO_CONTEST
from ensemble_bench.records import NamedWarning, Record, Threat

PUBLISHED = Path(__file__).resolve().parents[3] / "shared" / "data" / "robustbench-model_info"

ENTRY: dict[str, Any] = {
    "link": "https://arxiv.org/abs/2003.09461",
    "name": "A paper",
    "authors": "A. Author, B. Author",
    "additional_data": True,
    "number_forward_passes": 2,
    "dataset": "cifar10",
    "venue": "ECCV 2020",
    "architecture": "ResNet-50",
    "eps": "8/255",
    "clean_acc": "91.08",
    "reported": "73.27",
    "autoattack_acc": "72.91",
}


@pytest.fixture
def published() -> Path:
    if not PUBLISHED.is_dir():
        pytest.skip("RobustBench's published entries are not here: ../shared/data/robustbench-model_info is absent")
    return PUBLISHED


def test_every_published_entry_reads_and_goes_back(published: Path, tmp_path: Path) -> None:
    infos = read_all(published)
    assert len(infos) == len(list(published.rglob("*.json"))) == 236
    for name, info in infos.items():
        values = json.loads((published / f"{name}.json").read_text())
        assert info.as_dict() == values
        assert json.loads(write(info, tmp_path / "entry.json").read_text()) == values
        assert info.clean == pytest.approx(float(values["clean_acc"]) / 100)
    assert infos["cifar10/Linf/Kang2021Stable"].best_known == 0.642  # the external one, not AutoAttack's 71.28
    assert infos["cifar10/Linf/Xiao2020Enhancing"].radius == 0.031
    assert sum(info.best_known is not None for info in infos.values()) == 188


def test_published_corruptions_are_the_means_of_their_tables(published: Path) -> None:
    infos, compared = read_all(published), 0
    for path in sorted(published.rglob("*.csv")):
        field = "corruptions_acc_3d" if path.stem.endswith("3d") else "corruptions_acc"
        for model, cells in read_corruptions(path).items():
            assert {severity for _, severity in cells} == {1, 2, 3, 4, 5}
            info = infos.get((path.parent / model).relative_to(published).as_posix())
            if info is not None:  # two have another name in the table
                mean = sum(cells.values()) / len(cells)
                assert 100 * mean == pytest.approx(float(getattr(info, field)), abs=0.0101)
                compared += 1
    assert compared == 58


def test_an_entry_keeps_what_it_says_and_lacks() -> None:
    for extra in ({}, {"footnote": None}, {"footnote": ""}, {"external": "58", "unreliable": True}, {"eps": None}):
        values = {**ENTRY, **extra}
        info = ModelInfo.from_dict(values)
        assert info.as_dict() == values
        assert list(info.as_dict()) == sorted(values, key=[*ENTRY, "external", "footnote", "unreliable"].index)
        assert ModelInfo.from_dict(info.as_dict()) == info
    info = ModelInfo.from_dict({**ENTRY, "external": "58", "eps": "0.5"})
    assert (info.clean, info.autoattack, info.best_known, info.radius) == pytest.approx((0.9108, 0.7291, 0.58, 0.5))


def test_markup_is_text() -> None:
    info = ModelInfo.from_dict({**ENTRY, "venue": "GitHub,<br>Oct 2019", "footnote": "<script>1</script>"})
    assert (info.venue, info.footnote) == ("GitHub,<br>Oct 2019", "<script>1</script>")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clean_acc": 91.08}, "clean_acc: expected a text, got 91.08"),
        ({"clean_acc": "91,08"}, "clean_acc: expected a percentage from 0 to 100 as text"),
        ({"clean_acc": "nan"}, "clean_acc: expected a percentage"),
        ({"clean_acc": "1e1"}, "clean_acc: expected a percentage"),
        ({"clean_acc": "٣"}, "clean_acc: expected a percentage"),
        ({"autoattack_acc": "100.01"}, "autoattack_acc: expected a percentage"),
        ({"external": "-1"}, "external: expected a percentage"),
        ({"external": ""}, "external: expected a percentage"),
        ({"reported": "much"}, "reported: expected a percentage from 0 to 100 as text, such as '65.88', or ''"),
        ({"corruptions_mce": "inf"}, "corruptions_mce: expected a percentage"),
        ({"eps": 8 / 255}, "eps: expected a text"),
        ({"eps": "8/0"}, "eps: expected a radius above 0 such as '8/255'"),
        ({"eps": "0"}, "eps: expected a radius"),
        ({"number_forward_passes": 0}, "number_forward_passes: expected at least 1, got 0"),
        ({"number_forward_passes": True}, "number_forward_passes: expected an integer"),
        ({"number_forward_passes": "1"}, "number_forward_passes: expected an integer"),
        ({"additional_data": "no"}, "additional_data: expected true or false"),
        ({"unreliable": 1}, "unreliable: expected true or false"),
        ({"link": None}, "link: expected a text, got None"),
        ({"venu": "x"}, "unknown field 'venu'"),
        ({"autoattack_acc": None}, "no result: expected one of autoattack_acc, corruptions_acc"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "entry.json"
    path.write_text(json.dumps({**ENTRY, **change}))
    with pytest.raises(RecordError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [name for name in ENTRY if name != "autoattack_acc"])
def test_a_missing_field_is_named(name: str) -> None:
    with pytest.raises(RecordError, match=f"missing field '{name}'"):
        ModelInfo.from_dict({key: value for key, value in ENTRY.items() if key != name})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a JSON entry"),
        (b"<html>", "not a JSON entry"),
        (b"\xff\xfe{", "not a JSON entry"),
        (b"[" * 100_000, "not a JSON entry"),
        (b'{"clean_acc": NaN}', "NaN is not a number"),
        (b"[1]", "expected an object"),
        (b'"text"', "expected an object"),
        (b"null", "expected an object"),
        (b'{"a": "' + b"x" * LARGEST + b'"}', "expected a file of at most 1,000,000 bytes"),
        (b'"' + b"x" * 100_000 + b'"', "xxx…"),
    ],
)
def test_a_bad_file_is_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "entry.json"
    path.write_bytes(content)
    for load in (read, lambda path: read_all(path.parent)):
        with pytest.raises(RecordError) as caught:
            load(path)
        assert message in str(caught.value)
        assert len(str(caught.value)) < 700
    path.with_suffix(".csv").write_bytes(content)
    with pytest.raises(RecordError):
        read_corruptions(path.with_suffix(".csv"))


@pytest.mark.parametrize("name", [*ENTRY, "external", "footnote"])
def test_any_value_either_goes_back_or_is_a_record_error(name: str) -> None:
    for value in (None, "", "0", "0.0", "1/3", "1//3", "9" * 40, "\n", "%", 0, 1, -1.5, True, [], {}, [ENTRY]):
        values = {**ENTRY, name: value}
        try:
            info = ModelInfo.from_dict(values)
        except RecordError:
            continue
        assert info.as_dict() == values
        assert 0 <= info.clean <= 1
        assert info.best_known is None or 0 <= info.best_known <= 1


@pytest.mark.parametrize(
    "text",
    [
        ",fog,fog\n,1,2\nA,0.5\n",
        ",fog\n,one\nA,0.5\n",
        ",fog\n,1\nA,1.5\n",
        ",fog\n,1\nA,nan\n",
        ",fog\n,1\nA,\n",
        ",fog\n",
        ",fog,fog\n,1\nA,0.5\n",
        '"',
    ],
)
def test_a_table_of_corruptions_that_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(RecordError, match=r"t\.csv: "):
        read_corruptions(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text(",fog,fog\n,1,2\nA,0.5,0.25\n")
    assert read_corruptions(tmp_path / "t.csv") == {"A": {("fog", 1): 0.5, ("fog", 2): 0.25}}


def test_missing_files_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="cannot be read"):
        read(tmp_path / "none.json")
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(RecordError, match="no model_info entries"):
            read_all(folder)


# Ours

WRN = {"backbone": "wrn", "depth": 28, "width": 10.0, "members": 2, "gated": False}


def scored(suite: str, robust: int, n: int = 1000, **fields: Any) -> Record:
    about = {"data_name": "cifar10", "dataset": "cifar10", "architecture": WRN, "forward_passes": 2, **fields}
    clean = max(robust, 4 * n // 5)
    return record_of(clean=clean, robust=robust, n=n, attacks=(), suite=suite, **about)


def test_an_entry_of_ours_reads_like_theirs(tmp_path: Path) -> None:
    records = [scored("paper", 700), scored("autoattack", 503), scored("strongest", 499)]
    info = from_records(records, name="Ours", authors="Us", link="https://example.org", venue="ICML 2027")
    assert read(write(info, tmp_path / "deep" / "ours.json")) == info
    assert info.as_dict() == {
        "link": "https://example.org",
        "name": "Ours",
        "authors": "Us",
        "additional_data": False,
        "number_forward_passes": 2,
        "dataset": "cifar10",
        "venue": "ICML 2027",
        "architecture": "WideResNet-28-10 (2x ensemble)",
        "eps": "8/255",
        "clean_acc": "80.00",
        "reported": "",
        "autoattack_acc": "50.30",
        "external": "49.90",
        "footnote": "On the first 1000 test images of cifar10.",
        "unreliable": False,
    }


def test_only_official_numbers_go_without_a_footnote() -> None:
    for data_name, n in (("cifar10", 10_000), ("cifar100", 10_000), ("imagenet-robustbench", 5000)):
        assert from_records([scored("autoattack", 1000, n, data_name=data_name)]).footnote is None
        assert from_records([scored("autoattack", 1000, n - 1, data_name=data_name)]).footnote is not None
    for fields in ({"data_name": "cifar10-jpeg"}, {"split": "validation"}):
        info = from_records([scored("autoattack", 5000, 10_000, **fields)])
        assert info.footnote == (
            f"On the first 10000 {fields.get('split', 'test')} images of {fields.get('data_name', 'cifar10')}."
        )
    assert from_records([scored("autoattack", 5, data_name="cifar10-jpeg")]).dataset == "cifar10-jpeg"


def test_strongest_counts_on_the_same_images_and_where_it_found_more() -> None:
    autoattack = scored("autoattack", 500)
    other = HASH.replace("ab", "cd")
    for record in (
        scored("strongest", 501),
        scored("strongest", 100, 500),
        scored("strongest", 400, data_hash=other),
        scored("strongest", 400, view="logit"),
    ):
        assert from_records([autoattack, record]).external is None
    for suite in ("strongest", "strongest+autoattack", "exhaustive"):
        assert from_records([scored(suite, 500), autoattack]).external == "50.00"


def test_of_several_runs_of_autoattack_official_images_come_first_then_most() -> None:
    runs = [scored("autoattack", 90, 200), scored("autoattack", 40, 100)]
    assert from_records(runs).autoattack_acc == "45.00"
    jpeg = scored("autoattack", 300, 1000, data_name="cifar10-jpeg")
    assert from_records([*runs, jpeg]).autoattack_acc == "45.00"
    training = scored("autoattack", 40_000, 45_000, split="train")
    assert from_records([*runs, training]).autoattack_acc == "45.00"
    assert from_records([jpeg, training]).autoattack_acc == "30.00"
    for robust in (89, 90, 91):  # another seed, on the same images
        again = from_records([*runs, replace(scored("autoattack", robust, 200), id=f"{robust:064}")])
        assert again.autoattack_acc == f"{min(robust, 90) / 2:.2f}"


def test_signs_of_masked_gradients_make_it_unreliable() -> None:
    info = from_records([scored("autoattack", 500), replace(scored("strongest", 400), warnings=(WARNING,))])
    assert info.unreliable
    assert info.footnote is not None
    assert info.footnote.endswith("Warnings: blackbox-beats-whitebox.")


@pytest.mark.parametrize("name", sorted(NO_CONTEST))
def test_a_warning_that_contests_no_number_stands_in_the_footnote_alone(name: str) -> None:
    info = from_records([scored("autoattack", 500, warnings=(NamedWarning(name=name, message="a figure"),))])
    assert not info.unreliable
    assert info.footnote is not None
    assert info.footnote.endswith(f"Warnings: {name}.")


def test_records_that_make_no_entry() -> None:
    with pytest.raises(RecordError, match="no record of suite autoattack, which the entry needs; there is paper, stro"):
        from_records([scored("paper", 700), scored("strongest", 400)])
    with pytest.raises(RecordError, match="there is none"):
        from_records([])
    with pytest.raises(RecordError, match="weights_hash: expected records of one model under one threat, got sha256:"):
        from_records([scored("autoattack", 500), scored("strongest", 400, weights_hash=HASH.replace("ab", "cd"))])
    with pytest.raises(RecordError, match=r"threat: .* got linf 4/255 and linf 8/255"):
        from_records([scored("autoattack", 500), scored("strongest", 4, threat=Threat(norm="linf", eps=4 / 255))])


def test_an_entry_that_does_not_hold_together_is_not_written(tmp_path: Path) -> None:
    info = replace(ModelInfo.from_dict(ENTRY), clean_acc="many")
    with pytest.raises(RecordError, match="clean_acc"):
        write(info, tmp_path / "entry.json")
    assert not list(tmp_path.iterdir())


def test_architectures_in_their_words() -> None:
    def shown(**about: Any) -> str:
        return architecture_text(scored("autoattack", 5, architecture=about or None))

    assert shown(backbone="wrn", depth=10, width=1.422) == "WideResNet-10-1.422"
    assert shown(backbone="preact_resnet18", width=1.0, members=4, gated=True) == "PreActResNet-18 (4x gated ensemble)"
    assert shown(backbone="somebody's", width=0.5) == "somebody's of width 0.5"
    assert shown(backbone="wrn", width="wide") == "WideResNet-None-wide"
    assert shown() == "unknown"


def test_it_needs_no_torch() -> None:
    imports = "import ensemble_bench.leaderboard.model_info, ensemble_bench.leaderboard.beside, sys"
    subprocess.run([sys.executable, "-c", f"{imports}; assert 'torch' not in sys.modules"], check=True)
