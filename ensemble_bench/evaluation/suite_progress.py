"""How far a whole suite is: one line for all of its stages, in passes, and one more for each attack that ends."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ensemble_bench.attacks import Attack
from ensemble_bench.progress import Progress, duration, silent

# Passes that take long enough for someone to ask how long; fewer are over before a pace is measured.
WORTH_TELLING = 20_000


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What is known beforehand: most passes that a stage spends on an image, and the seconds of a pass, once asked."""

    passes: Callable[[Attack], int]
    seconds_a_pass: Callable[[], float]


class SuiteProgress:
    """Reports a suite under one label: done are the passes so far, left are those that its attacks may still take.

    `parts` are the stages of every attack, and `one_in` says which of them meet first the nearest one in so many of the
    survivors. Images that fall take their share of what is left with them, and so does a stage that ends early: what is
    left is a bound, and the time that callers make of it is one too, as long as those attacks break none.
    """

    def __init__(
        self,
        progress: Progress,
        label: str,
        parts: Sequence[Sequence[Attack]],
        *,
        one_in: Sequence[int],
        cascade: bool,
        correct: int,
        forecast: Forecast | None,
    ) -> None:
        self._progress, self._label, self._forecast = progress, label, forecast
        self._cascade, self._correct, self._one_in = cascade, correct, one_in
        bound = forecast.passes if forecast is not None else _steps
        self._bounds = [[bound(stage) for stage in stages] for stages in parts]
        self._attack = self._stage = 0
        self._name = ""
        self._passes = self._to_do = self._done = 0
        self._told = False

    def enter(self, attack: int, stage: int, name: str, *, targets: int) -> None:
        """The stage of that number, of the attack of that number, begins on so many images."""
        self._attack, self._stage, self._name, self._to_do = attack, stage, name, targets

    def begin(self, images: int, *, standing: int) -> None:
        """A block with so many images to attack begins; the first one says what the rest may take."""
        if not self._told:
            self._told = True
            self._tell(standing)
        self.at(images, done=0, broken=0, standing=standing)

    def at(self, images: int, *, done: int, broken: int, standing: int) -> None:
        """Of the images of a block so many are done, `broken` of them broken; `standing` withstand all so far."""
        bound = self._bounds[self._attack][self._stage]
        # A broken image may have taken anything up to the bound: it counts when the block ends.
        under_way = bound * max(done - broken, 0)
        self._report(under_way, bound * (self._to_do - min(done, images)), standing)

    def end(self, images: int, passes: int, *, standing: int, shown: bool) -> None:
        """A block is done, having taken so many passes; one that was done before is not `shown`."""
        self._passes += passes
        self._to_do -= images
        if shown:
            self._report(0, self._bounds[self._attack][self._stage] * self._to_do, standing)

    def attack_ended(self, name: str, *, met: int, broken: int, stages: int, passes: int, seconds: float) -> None:
        """An attack is over: how many images it met and broke, and what that took."""
        many = len(self._bounds[self._attack])
        told = f" in {stages} of {many} stages" if many > 1 else ""
        status = f"broke {broken:,} of {met:,}{told}, {passes:,} passes, {seconds:.1f} s"
        self._progress(f"{self._label} {name}", met, met, status=status)

    def close(self, *, standing: int, idle: Sequence[str]) -> None:
        """The suite is over; the attacks `idle` found nothing left to attack."""
        told = {"status": f"nothing stood for {', '.join(idle)}"} if idle else {}
        total = max(self._passes, self._done, 1)
        self._progress(f"{self._label} attacks", total, total, standing=standing, **told)

    def _report(self, under_way: int, in_stage: int, standing: int) -> None:
        # A restart counts its images anew, and what was said stays said.
        self._done = done = max(self._passes + under_way, self._done)
        at = sum(map(len, self._bounds[: self._attack])) + self._stage + 1
        stage = f"{at} of {sum(map(len, self._bounds))}: {self._name}"
        # The end is said by `close` alone.
        total = max(done + in_stage + self._later(standing), done + 1)
        self._progress(f"{self._label} attacks", done, total, stage=stage, standing=standing)

    def _later(self, standing: int) -> int:
        """Most passes of the stages after this one."""
        met = standing if self._cascade else self._correct
        of_chain = sum(self._bounds[self._attack][self._stage + 1 :]) * -(-standing // self._one_in[self._attack])
        return of_chain + sum(
            sum(bounds) * -(-met // one_in)
            for bounds, one_in in zip(self._bounds[self._attack + 1 :], self._one_in[self._attack + 1 :], strict=True)
        )

    def _tell(self, standing: int) -> None:
        if self._forecast is None or self._progress is silent:
            return
        passes = self._bounds[self._attack][self._stage] * self._to_do + self._later(standing)
        if passes >= WORTH_TELLING:
            time = duration(passes * self._forecast.seconds_a_pass())
            status = f"{standing:,} images to attack, at most {passes:,} passes: {time} or less"
            if max(self._one_in) > 1:
                status += ", more where attacks on the nearest survivors break some"
            self._progress(f"{self._label} estimate", 1, 1, status=status)


def _steps(attack: Attack) -> int:
    return max(int(getattr(attack, "steps", 1)), 1)
