"""Charts put points where their axes say; cards and quantities render as they should."""

from pathlib import Path
from typing import Any

import pytest
from synthetic_runs import build_runs, build_sweep

from ensemble_bench.leaderboard.site.charts import compute_charts, eps_chart, quantity, steps_chart
from ensemble_bench.leaderboard.site.entries import Entry
from ensemble_bench.leaderboard.site.markdown import to_html
from ensemble_bench.leaderboard.site.models import read_models
from ensemble_bench.records import Threat, find_records
from ensemble_bench.records.table import Value


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


def test_points_lie_where_the_axes_say() -> None:
    entries = [
        Entry(
            name=f"m{i}",
            data_name="d",
            threat=Threat(norm="linf", eps=8 / 255),
            suite="s",
            robust=Value(accuracy=robust, ci_low=robust - 0.03, ci_high=robust + 0.03),
            clean=Value(accuracy=0.9),
            flops=flops,
        )
        for i, (robust, flops) in enumerate([(0.24, 10**6), (0.5, 3 * 10**7), (0.41, 10**9), (0.3, None)])
    ]
    (chart,) = compute_charts(entries)
    assert len(chart.marks) == 3
    for mark, entry in zip(chart.marks, entries, strict=False):
        assert read_off(mark.y, chart.y_ticks) == pytest.approx(100 * entry.robust.accuracy, abs=0.05)
        assert read_off(mark.low, chart.y_ticks) == pytest.approx(100 * entry.robust.accuracy - 3, abs=0.05)
    ticks = {tick.text: tick.at for tick in chart.x_ticks}
    assert [ticks["1 M"], ticks["1 G"]] == [chart.marks[0].x, chart.marks[2].x]
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
