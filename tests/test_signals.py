"""Signals are taken for a while, and go back to whoever had them."""

import os
import signal
import threading

import pytest

from gan_lab.signals import STOPPING, handled


def test_a_signal_is_taken_and_goes_back() -> None:
    before = [signal.getsignal(number) for number in STOPPING]
    outer: list[int] = []
    inner: list[int] = []

    def work() -> None:
        with handled(lambda number, frame: inner.append(number), (signal.SIGTERM,)):
            for number in STOPPING:
                os.kill(os.getpid(), number)
            raise KeyError

    with handled(lambda number, frame: outer.append(number)):
        with pytest.raises(KeyError):
            work()
        os.kill(os.getpid(), signal.SIGTERM)
    assert (outer, inner) == ([signal.SIGINT, signal.SIGTERM], [signal.SIGTERM])
    assert [signal.getsignal(number) for number in STOPPING] == before


def test_another_thread_leaves_signals_alone() -> None:
    """It must not handle them, and need not."""
    seen: list[object] = []

    def work() -> None:
        with handled(lambda number, frame: None):
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
