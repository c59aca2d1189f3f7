"""Progress of a suite: passes done and left, on attacks that are only counted."""

from typing import Any

import pytest

from ensemble_bench import attacks
from ensemble_bench.evaluation.suite_progress import WORTH_TELLING, Forecast, SuiteProgress

CHAIN = attacks.get("apgd-t5").parts(None)  # type: ignore[arg-type]
PARTS = ((attacks.get("ifgsm5"),), CHAIN)


def told(
    correct: int = 10, *, cascade: bool = True, bound: int = 4, one_in: tuple[int, int] = (1, 1)
) -> tuple[SuiteProgress, list[Any]]:
    heard: list[Any] = []

    def progress(label: str, done: int, total: int, **fields: float | str) -> None:
        heard.append((label, done, total, fields))

    forecast = Forecast(passes=lambda _: bound, seconds_a_pass=lambda: 0.001)
    made = SuiteProgress(progress, "m", PARTS, one_in=one_in, cascade=cascade, correct=correct, forecast=forecast)
    return made, heard


@pytest.mark.parametrize(("cascade", "others"), [(True, 6), (False, 10)])
def test_what_falls_takes_its_share_of_what_is_left_along(cascade: bool, others: int) -> None:
    suite, heard = told(cascade=cascade)
    suite.enter(0, 0, "ifgsm5", targets=10)
    suite.begin(10, standing=10)
    assert heard == [("m attacks", 0, 4 * 10 * 10, {"stage": "1 of 10: ifgsm5", "standing": 10})]
    suite.at(10, done=5, broken=4, standing=6)
    # One image took its four passes, four fell; five wait, and what stands meets nine stages more.
    assert heard[-1][1:3] == (4, 4 + 4 * 5 + 9 * 4 * others)
    suite.end(10, 23, standing=6, shown=True)
    assert heard[-1][1:3] == (23, 23 + 9 * 4 * others)


def test_an_attack_on_the_nearest_counts_as_one_on_these() -> None:
    suite, heard = told(correct=90, bound=WORTH_TELLING // 100, one_in=(1, 8))
    suite.enter(0, 0, "ifgsm5", targets=90)
    suite.begin(90, standing=90)
    passes = WORTH_TELLING // 100 * (90 + 9 * 12)
    assert heard[0][3]["status"].startswith(f"90 images to attack, at most {passes:,} passes: ")
    assert heard[0][3]["status"].endswith(" or less, more where attacks on the nearest survivors break some")
    assert heard[1][1:3] == (0, passes)
    suite.enter(1, 0, "apgd-t5", targets=2)
    suite.begin(2, standing=16)
    assert heard[-1][1:3] == (0, WORTH_TELLING // 100 * (2 + 8 * 2))


def test_blocks_that_were_done_before_count_and_say_nothing() -> None:
    suite, heard = told()
    suite.enter(0, 0, "ifgsm5", targets=10)
    suite.end(7, 20, standing=8, shown=False)
    assert heard == []
    suite.begin(3, standing=8)
    assert heard[0][1:3] == (20, 20 + 4 * 3 + 9 * 4 * 8)


def test_what_was_said_to_be_done_is_never_taken_back() -> None:
    suite, heard = told()
    suite.enter(0, 0, "ifgsm5", targets=10)
    suite.at(10, done=9, broken=0, standing=10)
    suite.at(10, done=0, broken=0, standing=10)  # a restart begins
    suite.end(10, 20, standing=10, shown=True)
    assert [done for _, done, *_ in heard] == [36, 36, 36]


def test_the_time_is_told_once_and_before_the_first_block_that_runs() -> None:
    suite, heard = told(correct=100, bound=WORTH_TELLING // 1000)
    suite.enter(0, 0, "ifgsm5", targets=100)
    suite.begin(100, standing=100)
    suite.begin(100, standing=100)
    assert [label for label, *_ in heard] == ["m estimate", "m attacks", "m attacks"]
    passes = 10 * 100 * WORTH_TELLING // 1000
    assert heard[0][3] == {"status": f"100 images to attack, at most {passes:,} passes: 20 s or less"}
    suite, heard = told(correct=99, bound=WORTH_TELLING // 1000)
    suite.enter(0, 0, "ifgsm5", targets=99)
    suite.begin(99, standing=99)
    assert [label for label, *_ in heard] == ["m attacks"]
