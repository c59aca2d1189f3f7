"""The site: every number is a record's, nothing of a stranger's runs, and it replaces only itself."""

import csv
import itertools
import json
import re
import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from site_pages import Page, check_safe, publish, verdicts_on
from synthetic_runs import WARNING, build_appendix, build_runs, build_sweep, make_record, write
from typer.testing import CliRunner

from ensemble_bench.cli.leaderboard import app
from ensemble_bench.errors import InvalidValueError, RecordError
from ensemble_bench.leaderboard.site import build_site
from ensemble_bench.leaderboard.site.entries import entry_of
from ensemble_bench.leaderboard.site.models import read_models, titles_of
from ensemble_bench.records import NamedWarning, Record, Threat, find_records, write_record
from ensemble_bench.records.statistics import wilson
from ensemble_bench.records.table import Value
from ensemble_bench.records.text import quantity

PUBLISHED = Path(__file__).resolve().parents[2] / "leaderboards"
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs with suites paper and paper500, an ensemble's parts, and a series over eps."""
    root = build_runs(tmp_path_factory.mktemp("runs"), ("singleadv", "ensemble2adv"), n=60)
    build_sweep(root, ("singleadv",), n=50)
    return build_appendix(root, "ensemble2adv", members=2, n=40)


@pytest.fixture(scope="module")
def site(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of these runs."""
    return build_site(runs, tmp_path_factory.mktemp("out") / "site").parent


def pages_of(site: Path) -> list[Page]:
    """Every page of a site."""
    return [Page(path) for path in sorted(site.rglob("*.html"))]


def percent(value: float) -> str:
    """An accuracy as the site shows it."""
    return f"{100 * value:.1f}"


def scores(value: Any) -> str:
    """An accuracy with its interval as a cell's text."""
    return f"{percent(value.accuracy)} 95 % interval {percent(value.ci_low)}–{percent(value.ci_high)}"


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_equal_records_give_equal_bytes(runs: Path, site: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(runs, tmp_path / "elsewhere")
    again = build_site(copy, tmp_path / "site").parent
    assert files_of(again) == files_of(site)
    assert len(list(site.rglob("*.html"))) == 1 + len(read_models(runs))


@pytest.mark.parametrize("root", ["runs", "published"])
def test_every_number_is_the_records(root: str, runs: Path, site: Path, tmp_path: Path) -> None:
    source = runs if root == "runs" else PUBLISHED
    site = site if root == "runs" else build_site(source, tmp_path / "site").parent
    models = {(m.name, m.record.data_name, str(m.record.threat)): m.record for m in read_models(source)}
    lines = list(Page(site / "index.html").models())
    assert len(lines) == len(models)
    for line in lines:
        record = models[str(line["Model"][1]), line["data"][0], line["threat"][0]]
        assert line["Robust %"] == (scores(record.robust), repr(record.robust.accuracy))
        assert line["Clean %"] == (scores(record.clean), repr(record.clean.accuracy))
        assert "".join(line["Suite"][0].split()) == record.suite
        assert line["n"] == (f"{record.n:,}", str(record.n))
        assert line["Params"] == (quantity(record.parameters), str(record.parameters))
        assert line["FLOPs"][1] == str(record.flops)
        assert line["Networks"][0] == str(record.forward_passes)
        assert line["Seeds"][0] == "+".join(map(str, record.seeds))
        assert line["Warnings"][0] == str(len(record.warnings))
        for attack in record.attacks:
            if attack.name != "smaller-eps" and attack.accuracy is not None:
                n = "" if attack.n == record.n else f" n = {attack.n:,}"
                assert line[attack.name] == (percent(attack.accuracy) + n, repr(attack.accuracy))


def test_a_models_page_holds_all_its_records(runs: Path, site: Path) -> None:
    shown = 0
    for model in read_models(runs):
        page = Page(site / model.folder / "index.html")
        for record, lines in zip(model.records, page.tables, strict=False):
            shown += 1
            for attack, (name, accuracy, credit, passes) in zip(record.attacks, lines[1:], strict=True):
                known = "fell at a smaller eps" if attack.name == "smaller-eps" else attack.name
                assert name[0] == known + ("" if attack.n == record.n else f", n = {attack.n}")
                assert accuracy[0] == ("–" if attack.accuracy is None else scores(attack))
                assert credit[0] == str(attack.credit)
                assert passes[0] == ("–" if attack.passes is None else quantity(attack.passes))
        for record in (*model.records, *model.views):
            assert record.path is not None
            copy = site / model.folder / "records" / f"{record.id[:16]}.json"
            assert copy.read_bytes() == record.path.read_bytes()
        if model.views:
            members = {line["Part"][0]: line for line in page.rows(len(page.tables) - 1)}
            assert list(members) == ["whole", "member1", "member2", "logit"]
            for view in model.views:
                assert members[str(view.view)]["Robust %"][0] == scores(view.robust)
        if model.sweep:
            over_eps = [(line["eps"][0], line["Robust %"][0]) for line in page.rows(len(model.records))]
            assert over_eps[0] == ("0", scores(model.sweep[0].clean))
            assert over_eps[1:] == [(r.threat.eps_text, scores(r.robust)) for r in model.sweep]
    assert shown == len([record for record in find_records(runs) if record.view is None])


def test_the_downloads_are_the_table(runs: Path, site: Path) -> None:
    rows = list(csv.DictReader((site / "leaderboard.csv").open(encoding="utf-8")))
    objects = json.loads((site / "leaderboard.json").read_text(encoding="utf-8"))
    models = {model.folder: model.record for model in read_models(runs)}
    assert len(rows) == len(objects) == len(models)
    for row, told in zip(rows, objects, strict=True):
        record = models[told["page"].rpartition("/")[0]]
        assert (told["robust_accuracy"], told["clean_ci_low"]) == (record.robust.accuracy, record.clean.ci_low)
        assert row["robust_accuracy"] == f"{record.robust.accuracy:.4f}"
        assert row["model"] == told["model"] == record.run
        assert told["attacks"] == {a.name: a.accuracy for a in record.attacks if a.name != "smaller-eps"}
        assert told["partial"] == {a.name: a.n for a in record.attacks if a.n != record.n}
        for name, accuracy in told["attacks"].items():
            assert row[name] == f"{accuracy:.4f}"
            assert int(row.get(f"{name}_n", record.n)) == told["partial"].get(name, record.n)


def test_the_most_robust_stand_first_on_each_board(site: Path) -> None:
    boards = defaultdict(list)
    for told in json.loads((site / "leaderboard.json").read_text()):
        boards[told["data_name"], told["norm"], told["eps"]].append(told["robust_accuracy"])
    assert len(boards) > 2
    assert all(found == sorted(found, reverse=True) for found in boards.values())


def test_nothing_is_loaded_and_links_resolve(site: Path) -> None:
    for page in pages_of(site):
        check_safe(page, site)
        assert all(a.get("scope") in ("col", "row") for a in page.all("th"))
        headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
        assert headings[0] == 1
        assert all(below - above <= 1 for above, below in itertools.pairwise(headings))
        labelled = [a for tag in ("svg", "section", "form") for a in page.all(tag)]
        assert all({"aria-labelledby", "aria-label", "aria-hidden"} & set(a) for a in labelled)


def test_no_two_headings_of_a_page_are_alike(site: Path, tmp_path: Path) -> None:
    """Of three evaluations one differs in its seed, two in nothing but their ids."""
    records = [
        make_record([True] * 3, {"pgd5": [True] * 3}, seed=seed, id=str(i) * 64)[0]
        for i, seed in ((1, 0), (2, 0), (3, 1))
    ]
    for record in records:
        publish(tmp_path / "boards", "m", record, card="# m\n\n## Robustness\n")
    again = build_site(tmp_path / "boards", tmp_path / "site").parent
    for page in (*pages_of(site), *pages_of(again)):
        assert len(set(page.headings)) == len(page.headings) > 1
    (title, *_) = titles_of(read_models(tmp_path / "boards")[0]).values()
    assert title.startswith("Suite paper, n = 3, attack seed")


def test_each_board_has_a_table_and_seeds_share_a_line(tmp_path: Path) -> None:
    for eps in (4, 32):
        for seed, count in enumerate((2, 3, 4)):
            for recipe in ("singleadv", "ensemble2adv"):
                robust = [image < count + (recipe == "ensemble2adv") for image in range(10)]
                about = {"recipe": recipe, "seeds": (seed,), "threat": Threat(norm="linf", eps=eps / 255)}
                record, samples = make_record([True] * 10, {"pgd5": robust}, **about, weights_hash=f"{recipe}{seed}")
                write(record, samples, tmp_path / "runs" / record.run)
    page = Page(build_site(tmp_path / "runs", tmp_path / "site"))
    assert [text for text in page.headings if text.startswith("digits")] == [
        "digits, linf 4/255",
        "digits, linf 32/255",
    ]
    assert len(page.tables) == 2
    for table in page.tables:
        lines = [[text for text, _ in row] for row in table[1:]]
        assert [line[1].split()[0] for line in lines[::4]] == ["ensemble2adv-digits-tiny", "singleadv-digits-tiny"]
        assert [line[2] for line in lines] == [
            *("40.0 ± 10.0", scores_of(3), scores_of(4), scores_of(5)),
            *("30.0 ± 10.0", scores_of(2), scores_of(3), scores_of(4)),
        ]
    assert page.text.count("no operator of a board evaluated it") == 2  # once a table


def scores_of(count: int) -> str:
    """What a cell says of so many of ten images."""
    return scores(Value(accuracy=count / 10, **dict(zip(("ci_low", "ci_high"), wilson(count, 10), strict=True))))


def hostile() -> Record:
    """A record whose every text is an attempt to run a script."""
    record, _ = make_record([True, True, False], {"pgd5": [True, False, False]})
    return replace(
        record,
        recipe=HOSTILE,
        preset=HOSTILE,
        device=HOSTILE,
        commit=HOSTILE,
        data_name="x",
        suite=HOSTILE,
        split=HOSTILE,
        versions={HOSTILE: HOSTILE},
        architecture={"backbone": HOSTILE, HOSTILE: [HOSTILE]},
        attacks=tuple(replace(a, name=HOSTILE, curve=(1.0, 0.5)) for a in record.attacks),
        warnings=(NamedWarning(name=HOSTILE, message=HOSTILE),),
    )


def test_texts_of_strangers_stay_texts(tmp_path: Path) -> None:
    record = hostile()
    card = f"---\nlicense: {HOSTILE}\n---\n# {HOSTILE}\n[a](javascript:alert(3)) ![b](http://x/y) {HOSTILE}\n"
    flag = NamedWarning(name=HOSTILE, message=HOSTILE)
    verdict = verdicts_on(record, flags=[flag], status=HOSTILE, by=HOSTILE, date=HOSTILE, claimed_precision=HOSTILE)
    board = publish(tmp_path / "boards", "name", record, card=card, verified=verdict)
    info = {
        **dict.fromkeys(("name", "authors", "venue", "architecture", "footnote"), HOSTILE),
        "link": f"javascript:{HOSTILE}",
        "additional_data": False,
        "number_forward_passes": 1,
        "dataset": HOSTILE,
        "eps": "8/255",
        "clean_acc": "90.0",
        "reported": "50.0",
        "autoattack_acc": "50.0",
        "unreliable": True,
    }
    theirs = tmp_path / "theirs" / "Linf"
    for path in (board / "model_info" / "name.json", theirs / "a.json"):
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(info))
    site = build_site(tmp_path / "boards", tmp_path / "site", robustbench=theirs).parent
    index, page = Page(site / "index.html"), Page(site / "models/x/linf8of255/name/index.html")
    for shown in (index, page):
        check_safe(shown, site)
        assert HOSTILE in shown.text
        assert "javascript:" not in {str(a.get("href"))[:11] for a in shown.all("a")}
    assert len(index.inline["script"]) == 1
    assert not page.inline["script"]
    assert "license" not in page.text


def test_names_cannot_leave_the_site(tmp_path: Path) -> None:
    names = ("../../up", "..", "a/../../b", "Ü b", "x" * 150)
    for name in names:
        record, _ = make_record([True], {"pgd5": [True]}, model=f"{name}/best", data_name=f"../{name}", recipe=None)
        write_record(record, tmp_path / "records" / record.id)
    site = build_site(tmp_path / "records", tmp_path / "out" / "site").parent
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["site"]
    assert len(list(site.glob("models/*/*/*/index.html"))) == len(names)
    for page in pages_of(site):
        check_safe(page, site)


def test_an_unranked_model_is_shown_by_its_strongest_suite(tmp_path: Path) -> None:
    for suite, n in (("paper", 3), ("quick", 2), ("quick", 3)):
        record, _ = make_record([True] * n, {"pgd5": [True] * n}, suite=suite)
        publish(tmp_path, "a", record)
    (model,) = read_models(tmp_path)
    assert [(r.suite, r.n) for r in model.records] == [("quick", 3), ("quick", 2), ("paper", 3)]
    assert entry_of(model).suite == "quick"


def test_it_replaces_a_site_and_nothing_else(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    build_site(runs, out)
    (out / "old").touch()
    build_site(runs, out)
    assert not (out / "old").exists()
    before = files_of(out)
    broken = shutil.copytree(runs, tmp_path / "broken")
    next(broken.rglob("record.json")).write_text("{")
    for root, match in ((broken, "record"), (tmp_path / "missing", "no such directory")):
        with pytest.raises(RecordError, match=match):
            build_site(root, out)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").touch()
    for taken in (mine, mine / "thesis.tex", tmp_path):
        with pytest.raises(InvalidValueError, match="holds something else"):
            build_site(runs, taken)
    assert files_of(out) == before
    assert {path.name for path in tmp_path.iterdir()} == {"site", "broken", "mine"}


def test_a_failure_at_the_last_moment_leaves_the_old_site(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "site"
    build_site(runs, out)
    before, rename = files_of(out), Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.suffix == ".tmp":
            raise OSError(28, "No space left on device", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="No space"):
        build_site(runs, out)
    assert files_of(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_an_empty_leaderboard_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "boards").mkdir()
    site = build_site(tmp_path / "boards", tmp_path / "site").parent
    assert "No models yet" in Page(site / "index.html").text
    assert (site / "leaderboard.json").read_text() == "[]\n"
    assert (site / "leaderboard.csv").read_text().startswith("model,source,data_name,")


def test_warnings_are_counted_and_told(tmp_path: Path) -> None:
    record, _ = make_record([True], {"pgd5": [True]}, warnings=(WARNING,))
    publish(tmp_path / "boards", "w", record)
    site = build_site(tmp_path / "boards", tmp_path / "site").parent
    (line,) = Page(site / "index.html").rows()
    assert line["Warnings"][0] == "1"
    assert WARNING.message in Page(next(site.glob("models/*/*/w/index.html"))).text


def test_the_command_builds_and_names_the_page(runs: Path, tmp_path: Path) -> None:
    cli = typer.Typer()
    cli.add_typer(app, name="leaderboard")
    build = ["leaderboard", "build", "--out", str(tmp_path / "site"), "--root"]
    done = CliRunner().invoke(cli, [*build, str(runs)])
    assert (done.exit_code, done.output.strip()) == (0, str(tmp_path / "site" / "index.html"))
    refused = CliRunner().invoke(cli, [*build, str(tmp_path / "none")])
    assert isinstance(refused.exception, RecordError)
