"""A signal as a request: the loop finishes its step, saves and leaves, instead of being cut off anywhere."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from signal import Signals


class Stop:
    """False until a signal comes; `signal` says which."""

    signal: Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def stop_on(*signals: Signals) -> Iterator[Stop]:
    """Within it the first of these signals is only noted, for the loop to read; the second has its usual effect.

        with stop_on(signal.SIGTERM) as stop:
            for step in ...:
                ...
                if stop:
                    save_checkpoint(...)
                    break

    Args:
        signals: None given: SIGTERM, which clusters and containers send some seconds before they kill. With SIGINT the
            first Ctrl-C is noted, and the second interrupts.

    Python delivers signals to the main thread alone: in another one nothing is ever noted. In a child that is forked
    inside, such as a worker, they have their usual effect.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    owner = os.getpid()
    # None stands for a handler that was not set from Python, and that Python cannot put back
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in signals or (signal.SIGTERM,)}

    def note(number: int, frame: object) -> None:
        signal.signal(number, before[number])
        if os.getpid() == owner:
            stop.signal = Signals(number)
        else:
            os.kill(os.getpid(), number)

    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
