"""A diagnosis as files: nothing is lost in the CSV, equal findings give equal bytes, and the figure can be read."""

import csv
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from ensemble_bench.records import Threat
from ensemble_bench.records.diagnosis import ENSEMBLE, Diagnosis, Finding, member, without
from ensemble_bench.reports.diagnosis import tables, write_diagnosis

FILES = ("diagnosis.csv", "diagnosis.md", "diagnosis.png", "diagnosis.pdf")


def made(members: int = 3) -> Diagnosis:
    """Findings with values that are easy to tell apart."""
    names = [member(i) for i in range(members)]
    everyone = [*names, ENSEMBLE]
    found = []
    for i, name in enumerate([ENSEMBLE, *names, *map(without, names)]):
        found.append(Finding(quantity="clean_accuracy", a=name, value=(190 - i) / 200, n=200))
        found.append(Finding(quantity="robust_accuracy", a=name, value=(100 - i) / 200, n=200))
    for i, a in enumerate(everyone):
        for j, b in enumerate(everyone):
            found.append(Finding(quantity="transfer", a=a, b=b, value=(i * len(everyone) + j) / 100, n=150 + i + j))
    for kind, sign in (("clean", 1), ("adversarial", -1)):
        for i, (a, b) in enumerate(combinations(names, 2)):
            found.append(Finding(quantity=f"cosine_{kind}", a=a, b=b, value=sign * (i + 1) / 40, n=200))
        total = sum(range(1, members + 1))
        found += [
            Finding(quantity=f"share_{kind}", a=name, value=(i + 1) / total, n=200) for i, name in enumerate(names)
        ]
    # Nobody is ever fooled all at once, so that nothing is known of the ensemble there.
    for count in range(members + 1):
        n = 0 if count == members else 60
        found.append(Finding(quantity="members_fooled", a=str(count), value=n / (60 * members), n=60 * members))
        falls = count / members if n else None
        found.append(Finding(quantity="ensemble_falls", a=str(count), value=falls, n=n))
    return Diagnosis(
        model="ensemble3adv-digits-tiny-s0/best",
        weights_hash="sha256:00",
        data_name="digits",
        split="test",
        n=200,
        threat=Threat(norm="linf", eps=8 / 255),
        attack="margin20",
        seed=0,
        members=members,
        findings=tuple(found),
    )


def read(folder: Path) -> list[dict[str, str]]:
    with open(folder / "diagnosis.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_csv_holds_every_finding_and_where_it_comes_from(tmp_path: Path) -> None:
    diagnosis = made()
    assert write_diagnosis(diagnosis, tmp_path / "out") == tuple(tmp_path / "out" / name for name in FILES)
    rows = read(tmp_path / "out")
    assert len(rows) == len(diagnosis.findings)
    for row, finding in zip(rows, diagnosis.findings, strict=True):
        assert (row["quantity"], row["a"], row["b"], int(row["n"])) == (
            finding.quantity,
            finding.a,
            finding.b,
            finding.n,
        )
        assert (
            row["value"] == ""
            if finding.value is None
            else float(row["value"]) == pytest.approx(finding.value, abs=1e-6)
        )
        assert (row["model"], row["weights_hash"]) == (diagnosis.model, "sha256:00")
        assert (row["dataset"], row["split"], row["attack"], row["seed"]) == ("digits", "test", "margin20", "0")
        assert (row["norm"], float(row["eps"])) == ("linf", 8 / 255)


def test_rows_of_the_csv_sum_to_one(tmp_path: Path) -> None:
    write_diagnosis(made(), tmp_path)
    for quantity in ("share_clean", "share_adversarial", "members_fooled"):
        values = [float(row["value"]) for row in read(tmp_path) if row["quantity"] == quantity]
        assert sum(values) == pytest.approx(1, abs=1e-5)


def test_tables_place_every_number() -> None:
    members, transfer, cosine, fooled = tables(made())
    assert members.text_rows()[0][:4] == ("ensemble", "95.0 [91.0, 97.3]", "50.0 [43.1, 56.9]", "–")
    # Robust alone 99/200, without member1 96/200; its share is 1/6.
    assert members.text_rows()[1][2:] == ("49.5 [42.6, 56.4]", "48.0 [41.2, 54.9]", "16.7", "16.7")
    assert transfer.columns == ("x_adv against", "member1", "member2", "member3", "ensemble")
    assert transfer.text_rows()[1] == ("member2", "4.0", "5.0", "6.0", "7.0")
    assert cosine.text_rows()[2] == ("member2, member3", "0.07", "−0.07")
    assert fooled.text_rows() == (("0", "33.3", "0.0"), ("1", "33.3", "33.3"), ("2", "33.3", "66.7"), ("3", "0.0", "–"))


def test_the_page_shows_the_tables_and_the_figure(tmp_path: Path) -> None:
    write_diagnosis(made(), tmp_path)
    page = (tmp_path / "diagnosis.md").read_text()
    assert page.startswith("# Diagnosis of ensemble3adv-digits-tiny-s0/best\n")
    assert "digits test, n = 200, linf 8/255, margin20, seed 0" in page
    assert "](diagnosis.png)" in page
    assert "| member2 | 4.0 | 5.0 | 6.0 | 7.0 |" in page


def test_another_process_gives_equal_bytes_without_torch_or_pyplot(tmp_path: Path) -> None:
    write_diagnosis(made(), tmp_path / "here")
    script = (
        "import sys; from pathlib import Path; import matplotlib; matplotlib.rcParams['font.size'] = 30;"
        "from test_diagnosis import made, write_diagnosis; write_diagnosis(made(), Path(sys.argv[1]));"
        "assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "there"], check=True, cwd=Path(__file__).parent)
    for name in FILES:
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
    changed = replace(made(), findings=tuple(replace(f, value=0.5) for f in made().findings))
    write_diagnosis(changed, tmp_path / "here")
    assert (tmp_path / "here" / "diagnosis.png").read_bytes() != (tmp_path / "there" / "diagnosis.png").read_bytes()
    assert b"CreationDate" not in (tmp_path / "here" / "diagnosis.pdf").read_bytes()


@pytest.mark.parametrize("members", [2, 8])
def test_no_text_of_the_figure_is_cut_off_or_written_over_another(members: int) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    from ensemble_bench.reports.diagnosis import figure_of

    figure = figure_of(made(members))
    FigureCanvasAgg(figure).draw()
    boxes = {text: text.get_window_extent() for text in figure.findobj(Text) if text.get_text() and text.get_visible()}
    width, height = figure.bbox.size
    for text, box in boxes.items():
        assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= 0, text.get_text()
    for (a, one), (b, other) in combinations(boxes.items(), 2):
        overlap = min(one.x1, other.x1) - max(one.x0, other.x0), min(one.y1, other.y1) - max(one.y0, other.y0)
        assert min(overlap) <= 2, (a.get_text(), b.get_text())
