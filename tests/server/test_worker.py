"""Judging submissions with the true verifier, publisher and site."""

import csv
from pathlib import Path

import pytest
from sample_bundles import edited, files_of, honest, tree, zipped

from ensemble_bench.errors import DataError
from ensemble_bench.server.settings import ServiceSettings
from ensemble_bench.server.store import Store, Submission
from ensemble_bench.server.worker import judge
from ensemble_bench.submissions import publishing, verification
from ensemble_bench.submissions.faults import is_of_machine
from ensemble_bench.submissions.format.bundle import unpack

N = 20


class Desk:
    """A service's folder and its queue, without the service."""

    def __init__(self, folder: Path) -> None:
        self.settings = ServiceSettings(data=folder, n=N)
        self.settings.make_folders()
        self.store = Store(self.settings.store)
        self.count = 0

    def queue(self, bundle: Path, *, owner: str = "alice") -> Submission:
        self.count += 1
        identifier = f"submission{self.count}"
        kept = unpack(bundle, self.settings.upload(identifier))
        self.store.add(identifier, owner=owner, name=kept.name, weights_hash=kept.weights_hash)
        taken = self.store.take()
        assert taken is not None
        return taken

    def judge(self, bundle: Path, *, owner: str = "alice") -> tuple[str, tuple[str, ...]]:
        return judge(self.queue(bundle, owner=owner), self.settings, self.store)

    def rows(self) -> list[str]:
        """Models on the site."""
        with open(self.settings.site / "leaderboard.csv", newline="") as file:
            return [row["model"] for row in csv.DictReader(file)]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "data")


def test_what_holds_is_published_once(desk: Desk) -> None:
    submission = desk.queue(honest())
    assert judge(submission, desk.settings, desk.store) == ("verified", ())
    assert len(desk.rows()) == 1
    assert "mine" in (desk.settings.site / "index.html").read_text()
    before = tree(desk.settings.root)
    # Again, as after a kill between its publication and its verdict.
    assert judge(submission, desk.settings, desk.store) == ("verified", ())
    after = tree(desk.settings.root)
    assert {path for path in after if after[path] != before.get(path)} <= {
        str(path.relative_to(desk.settings.root)) for path in desk.settings.root.glob("*/*/verified/mine.json")
    }
    assert before.keys() == after.keys()
    assert len(desk.rows()) == 1


def test_what_does_not_hold_is_not_published(desk: Desk, tmp_path: Path) -> None:
    def inflate(claims: "dict[str, list[dict[str, dict[str, float]]]]") -> None:
        for claim in claims["claims"]:
            claim["robust"] = claim["clean"] | {"robust": claim["clean"]["correct"]}
            del claim["robust"]["correct"]
            claim["outcomes"] = [line.replace("f", "s") for line in claim["outcomes"]]

    bundle = zipped(edited(files_of(honest()), "claims.json", inflate), tmp_path / "inflated.zip")
    status, reasons = desk.judge(bundle)
    assert status == "not reproduced"
    assert "robust accuracy" in reasons[0]
    assert not tree(desk.settings.root)
    assert desk.store.owner_of("mine") is None


def test_a_name_is_its_owners(desk: Desk) -> None:
    assert desk.judge(honest())[0] == "verified"
    before = tree(desk.settings.root)
    status, reasons = desk.judge(honest(), owner="bob")
    assert (status, reasons) == ("refused", ("name 'mine' belongs to another submitter: choose another --name",))
    assert tree(desk.settings.root) == before
    assert desk.store.owner_of("mine") == "alice"


def test_a_name_that_the_operator_published_is_nobody_elses(desk: Desk, tmp_path: Path) -> None:
    result = verification.verify(honest(), work=tmp_path / "work", n=N)
    publishing.publish(result, tmp_path / "work" / verification.BUNDLE, desk.settings.root)
    assert desk.judge(honest())[0] == "refused"


def test_another_model_of_a_taken_name_is_refused_before_it_is_run(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert desk.judge(honest())[0] == "verified"
    files = edited(files_of(honest()), "config.json", lambda config: config.update(weights_hash=f"sha256:{'0' * 64}"))
    monkeypatch.setattr(verification, "verify", lambda *_, **__: 1 / 0)
    status, reasons = desk.judge(zipped(files, tmp_path / "other.zip"))
    assert status == "refused"
    assert "another model" in reasons[0]
    assert str(desk.settings.data) not in reasons[0]


def test_data_that_are_not_here_are_the_operators_fault(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> None:
        raise DataError("/secret/place: no data")

    monkeypatch.setattr(verification, "verify", absent)
    with pytest.raises(DataError) as caught:
        desk.judge(honest())
    assert is_of_machine(caught.value)


def test_a_site_that_cannot_be_built_takes_back_no_verdict(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.settings.site.mkdir()
    (desk.settings.site / "mine.txt").write_text("the operator's own")
    assert desk.judge(honest()) == ("verified", ())
    assert "not up to date" in capsys.readouterr().err
    assert [path.name for path in desk.settings.site.iterdir()] == ["mine.txt"]


def test_a_description_without_its_checkpoint_is_published_whole_or_not_at_all(desk: Desk, tmp_path: Path) -> None:
    files = edited(files_of(honest()), "config.json", lambda config: config["meta"].pop("checkpoint"))
    status, _ = desk.judge(zipped(files, tmp_path / "bare.zip"))
    assert status == "verified"
    (board,) = desk.settings.root.glob("*/*")
    assert (board / "weights" / "mine" / "README.md").is_file()
    assert (board / "verified" / "mine.json").is_file()
    assert len(desk.rows()) == 1


@pytest.mark.parametrize("place", ["card.render", "leaderboard_csv", "_verdicts"])
def test_whatever_is_raised_while_judging_undoes_all(desk: Desk, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    submission = desk.queue(honest())
    before = tree(desk.settings.root)
    with monkeypatch.context() as patch:
        patch.setattr(f"ensemble_bench.submissions.publishing.{place}", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            judge(submission, desk.settings, desk.store)
    assert tree(desk.settings.root) == before
    assert desk.store.owner_of("mine") is None
    assert judge(submission, desk.settings, desk.store) == ("verified", ())


def test_a_verified_models_card_holds_no_markup_of_its_makers(desk: Desk, tmp_path: Path) -> None:
    files = edited(
        files_of(honest()),
        "model_info.json",
        lambda info: info.update(authors="# [Free](https://evil.example) *models*", venue="`x` | y"),
    )
    files = edited(
        files, "config.json", lambda c: c["meta"].update(recipe="[best](https://evil.example)", objective="# z")
    )
    assert desk.judge(zipped(files, tmp_path / "marked.zip"))[0] == "verified"
    (page,) = desk.settings.site.glob("models/*/*/*/index.html")
    card = page.read_text().partition("Model card")[2]
    assert "Training, as its maker says" in card
    assert "[best](https://evil.example)" in card
    assert "# [Free](https://evil.example) *models*, `x` | y" in card
    assert "<a " not in card.partition("</section>")[0]
    assert "<code>x" not in card
    assert "<h3" not in card  # the first level: the model's name, which heads the page already
