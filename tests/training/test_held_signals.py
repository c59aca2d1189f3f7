"""Signals that wait until several processes agree on them."""

import os
import signal

import pytest

from ensemble_bench.training import interrupts
from ensemble_bench.training.interrupts import SIGINT, SIGTERM, Terminated

pytestmark = pytest.mark.usefixtures("interruptible")


def _send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_a_signal_waits_until_it_is_handled() -> None:
    reached = []
    with interrupts.held() as signals:
        assert signals.waiting == 0
        _send(SIGINT)
        reached.append(signals.waiting)
        with pytest.raises(KeyboardInterrupt):
            signals.handle(SIGINT)
        assert signals.waiting == 0
    assert reached == [SIGINT]
    assert signal.getsignal(SIGINT) is signal.default_int_handler


def test_sigterm_goes_before_ctrl_c_and_ends_as_it_does_otherwise() -> None:
    with interrupts.terminable() as happened, interrupts.held() as signals:
        _send(SIGTERM)
        _send(SIGINT)
        assert signals.waiting == SIGTERM
        assert not happened()
        with pytest.raises(Terminated):
            signals.handle(signals.waiting)
        assert happened()


def test_a_signal_of_another_process_is_handled_as_an_own_one() -> None:
    with interrupts.terminable() as happened, interrupts.held() as signals:
        with pytest.raises(Terminated):
            signals.handle(SIGTERM)
        assert happened()


def test_what_still_waits_is_handled_at_the_end() -> None:
    def block() -> None:
        with interrupts.held():
            _send(SIGINT)

    with pytest.raises(KeyboardInterrupt):
        block()


def test_lifted_a_signal_is_handled_at_once() -> None:
    reached = []

    def block(*, before: bool) -> None:
        if before:
            _send(SIGINT)
        with signals.lifted():
            reached.append("lifted")
            _send(SIGINT)
            reached.append("not interrupted")

    with interrupts.held() as signals:
        with pytest.raises(KeyboardInterrupt):
            block(before=False)
        assert reached == ["lifted"]
        with pytest.raises(KeyboardInterrupt):
            block(before=True)
        assert reached == ["lifted"]
        _send(SIGINT)  # it waits again
        assert signals.waiting == SIGINT
        with pytest.raises(KeyboardInterrupt):
            signals.handle(SIGINT)
