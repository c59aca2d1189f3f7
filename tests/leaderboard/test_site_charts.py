"""Charts put points where their axes say; cards and quantities render as they should."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from site_pages import Page
from synthetic_runs import build_runs, build_sweep, make_record, write

from ensemble_bench.leaderboard.site import build_site
from ensemble_bench.leaderboard.site.boards import boards_of
from ensemble_bench.leaderboard.site.charts import eps_chart, steps_chart
from ensemble_bench.leaderboard.site.entries import Entry, with_seeds
from ensemble_bench.leaderboard.site.looks import BACKGROUNDS, luminance, visible
from ensemble_bench.leaderboard.site.markdown import to_html
from ensemble_bench.leaderboard.site.models import read_models
from ensemble_bench.leaderboard.site.scatter import scatter
from ensemble_bench.records import Record, StageResult, Threat, find_records
from ensemble_bench.records.table import Value
from ensemble_bench.records.text import day_text, quantity
from ensemble_bench.registry import RECIPES


def test_cards_are_markdown_without_harm() -> None:
    html = to_html("# A\n\n**b** [c](https://d) [e](file:///f) [g](../h)\n\n| i | j |\n|--:|---|\n| 1 | <b> |\n")
    assert "<h3>A</h3>" in html
    assert "<strong>b</strong>" in html
    assert '<a href="https://d" rel="nofollow noopener noreferrer">c</a>' in html
    assert html.count("<a ") == 1
    assert '<th scope="col">i</th>' in html
    assert "<td>1</td>" in html
    assert "&lt;b&gt;" in html


def test_metadata_at_the_head_of_a_card_is_left_out() -> None:
    assert to_html("---\nlicense: mit\n---\n\nhello\n") == "<p>hello</p>\n"
    assert to_html("hello\n\n---\n\nyou\n") == "<p>hello</p>\n<hr />\n<p>you</p>\n"


@pytest.mark.parametrize(
    ("value", "text", "plain"),
    [
        (0, "0", "0"),
        (999, "999", "999"),
        (1000, "1.00 k", "1 k"),
        (155_700, "156 k", "156 k"),
        (48_239_004, "48.2 M", "48.2 M"),
        (999_960, "1.00 M", "1 M"),
        (5_250_000_000, "5.25 G", "5.25 G"),
        (1.5e18, "1500 P", "1.5e+03 P"),
    ],
)
def test_quantities_have_three_digits(value: float, text: str, plain: str) -> None:
    assert quantity(value) == text
    assert quantity(value, plain=True) == plain


def read_off(pixel: float, ticks: Any) -> float:
    """The value at a pixel of an axis, by the two outermost ticks."""
    (a, low), (b, high) = ((tick.at, float(tick.text)) for tick in (ticks[0], ticks[-1]))
    return low + (pixel - a) / (b - a) * (high - low)


def entry(name: str, robust: float, flops: int | None, **about: Any) -> Entry:
    """A line of the table, with an interval of 3 points to both sides."""
    return Entry(
        name=name,
        data_name="d",
        threat=Threat(norm="linf", eps=8 / 255),
        robust=Value(accuracy=robust, ci_low=robust - 0.03, ci_high=robust + 0.03),
        clean=Value(accuracy=0.9),
        flops=flops,
        **{"suite": "s", **about},
    )


def test_points_lie_where_the_axes_say() -> None:
    scores = [(0.24, 10**6), (0.5, 3 * 10**7), (0.41, 10**9), (0.3, None)]
    entries = [entry(f"m{i}", robust, flops) for i, (robust, flops) in enumerate(scores)]
    (board,) = boards_of(entries)
    chart = scatter(board)
    assert chart is not None
    assert len(chart.marks) == 3
    for mark, shown in zip(chart.marks, [entries[1], entries[2], entries[0]], strict=True):  # the most robust first
        assert read_off(mark.y, chart.y_ticks) == pytest.approx(100 * shown.robust.accuracy, abs=0.05)
        assert read_off(mark.low, chart.y_ticks) == pytest.approx(100 * shown.robust.accuracy - 3, abs=0.05)
    ticks = {tick.text: tick.at for tick in chart.x_ticks}
    assert [ticks["1 M"], ticks["1 G"]] == [chart.marks[2].x, chart.marks[1].x]
    places = [(label.x, label.y) for label in chart.labels]
    assert len(places) == len(set(places)) == 3


def test_curves_are_the_records(tmp_path: Path) -> None:
    runs = build_sweep(build_runs(tmp_path, ("singleadv",), n=60), ("singleadv",), n=50)
    single = next(m for m in read_models(runs) if m.name.startswith("singleadv") and m.record.threat.eps < 0.03)
    chart = eps_chart(single.sweep)
    assert chart is not None
    expected = [single.sweep[0].clean.accuracy, *(r.robust.accuracy for r in single.sweep)]
    assert [read_off(m.y, chart.y_ticks) for m in chart.marks] == pytest.approx([100 * e for e in expected], abs=0.1)
    record = next(r for r in find_records(runs) if r.suite == "paper")
    steps = steps_chart(record)
    assert steps is not None
    by_name = {line.title: [tuple(map(float, p.split(","))) for p in line.points.split()] for line in steps.lines}
    for attack in record.attacks:
        if attack.curve:
            points = by_name[attack.name]
            assert [read_off(x, steps.x_ticks) for x, _ in points] == pytest.approx(range(len(points)), abs=0.05)
            assert [read_off(y, steps.y_ticks) for _, y in points] == pytest.approx(
                [100 * value for value in attack.curve], abs=0.1
            )


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_no_tick_is_a_part_of_a_step(steps: int) -> None:
    record, _ = make_record([True], {"ifgsm7": [True]})
    curve = tuple(0.9 - 0.1 * step for step in range(steps + 1))
    chart = steps_chart(replace(record, attacks=(replace(record.attacks[0], curve=curve),)))
    assert chart is not None
    ticks = [float(tick.text) for tick in chart.x_ticks]
    assert len(ticks) > 1
    assert all(tick.is_integer() for tick in ticks)


def test_stages_that_met_no_image_are_no_line() -> None:
    record, _ = make_record([False, False], {"blackbox": [None, None]})
    stages = tuple(StageResult(name=f"blackbox/{n}", attacked=0, broken=0, seconds=0.0, passes=0) for n in (10, 20))
    attack = replace(record.attacks[0], stages=stages)
    assert Record.from_dict(replace(record, attacks=(attack,)).as_dict()).attacks == (attack,)
    assert steps_chart(replace(record, attacks=(attack,))) is None


@pytest.mark.parametrize("flops", [(10**6,), (10**6, 10**6 + 1, 3 * 10**6)])
def test_labels_lie_on_nothing(flops: tuple[int, ...]) -> None:
    """Twelve models of equal or nearly equal cost and close accuracies: labels apart, from each other and the marks."""
    entries = [entry(f"model-{i}", 0.4 + 0.004 * (i % 5), flops[i % len(flops)]) for i in range(12)]
    (board,) = boards_of(entries)
    chart = scatter(board)
    assert chart is not None
    assert {mark.line for mark in chart.legend} | {label.line for label in chart.labels} == {
        m.line for m in chart.marks
    }
    assert len(chart.labels) >= 6
    boxes = []
    for label in chart.labels:
        width = 6.5 * len(label.text)
        left = label.x - width if label.end else label.x
        boxes.append((left, label.y - 6, left + width, label.y + 6))
    boxes += [(mark.x - 4, mark.y - 4, mark.x + 4, mark.y + 4) for mark in chart.marks]
    for i, (a, b, c, d) in enumerate(boxes[: len(chart.labels)]):
        assert 0 <= a < c <= chart.width
        for e, f, g, h in boxes[i + 1 :]:
            assert not (a < g and e < c and b < h and f < d)


def test_a_mark_without_a_label_is_named_in_full(tmp_path: Path) -> None:
    """Names of models from elsewhere begin with their source and a colon."""
    for i in range(40):
        name = f"robustbench:{'x' * 20}{i}"
        about = {"model": name, "checkpoint": None, "recipe": None, "weights_hash": f"sha256:{i:064}"}
        record, samples = make_record([True], {"pgd5": [True]}, **about)
        write(record, samples, tmp_path / "runs" / str(i))
    page = Page(build_site(tmp_path / "runs", tmp_path / "site"))
    (board,) = boards_of(with_seeds(read_models(tmp_path / "runs")))
    chart = scatter(board)
    assert chart is not None
    assert chart.legend
    lines = {line.id: line.name for line in board.lines}
    named = [item["data-line"] for item in page.all("li") if "data-line" in item]
    assert named == [mark.line for mark in chart.legend]
    assert all(f" {lines[str(line)]}\n" in page.text for line in named)


def test_the_scatter_is_of_one_suite() -> None:
    entries = [entry(f"m{i}", 0.4, 10**6 * (i + 1), suite="quick" if i else "strongest") for i in range(4)]
    (board,) = boards_of(entries)
    chart = scatter(board)
    assert chart is not None
    assert len(chart.marks) == 3
    assert "suite quick" in chart.title
    assert chart.note == "1 line of other evaluations left out"
    (board,) = boards_of([replace(e, rank=1 if e.suite == "strongest" else None) for e in entries])
    ranked = scatter(board)
    assert ranked is not None
    assert "suite strongest" in ranked.title


def test_close_eps_have_no_ticks_that_overlap(tmp_path: Path) -> None:
    root = build_sweep(tmp_path, ("singleadv",), levels=(1, 2, 3, 4, 8, 32), n=50)
    chart = eps_chart(read_models(root)[0].sweep)
    assert chart is not None
    assert [chart.x_ticks[0].text, chart.x_ticks[-1].text] == ["0", "32"]
    assert len(chart.marks) == 7
    for left, right in itertools.pairwise(chart.x_ticks):
        assert right.at - left.at > 6 * (len(left.text) + len(right.text)) / 2 + 4


def test_recipes_stand_out_from_both_pages() -> None:
    for background in BACKGROUNDS.values():
        back = luminance(background)
        for recipe in RECIPES.values():
            assert recipe.look is not None
            own = luminance(visible(recipe.look[0], background))
            assert (max(own, back) + 0.05) / (min(own, back) + 0.05) >= 2.99
    assert luminance("#ffffff") == pytest.approx(1)
    assert luminance("#777777") == pytest.approx(0.184, abs=0.001)  # the grey of 4.48 : 1 on white


@pytest.mark.parametrize(
    ("date", "text"),
    [
        ("2026-11-21", "21 November 2026"),
        ("2026-03-02T23:05:00+00:00", "2 March 2026"),
        ("yesterday", "yesterday"),
        ("2026-13-01", "2026-13-01"),
        ("2026-01-023", "2026-01-023"),
    ],
)
def test_dates_are_for_people(date: str, text: str) -> None:
    assert day_text(date) == text
