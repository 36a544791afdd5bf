"""A signal is noted once, has its usual effect the second time, and is as it was afterwards."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from minihf.training.signals import stop_on


@pytest.fixture(autouse=True)
def as_in_a_terminal():
    """A shell that starts a job in the background has it ignore ctrl-c, and Python leaves it at that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def send(number: signal.Signals) -> None:
    signal.raise_signal(number)


def test_the_first_is_noted_and_the_second_takes_effect():
    came = []
    before = signal.signal(signal.SIGTERM, lambda *_: came.append("before"))
    try:
        with stop_on() as stop:
            assert not stop
            assert stop.signal is None
            send(signal.SIGTERM)
            assert stop
            assert stop.signal is signal.SIGTERM
            assert came == []
            send(signal.SIGTERM)
            assert came == ["before"]
        with stop_on(signal.SIGTERM):
            pass
        send(signal.SIGTERM)
        assert came == ["before"] * 2
    finally:
        signal.signal(signal.SIGTERM, before)


def test_ctrl_c_twice_interrupts():
    with stop_on(signal.SIGTERM, signal.SIGINT) as stop:
        send(signal.SIGINT)
        assert stop.signal is signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)


def test_by_default_interrupts_are_not_touched():
    with pytest.raises(KeyboardInterrupt), stop_on():
        send(signal.SIGINT)


def test_another_thread_notes_nothing():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def body():
        with stop_on() as stop:
            seen.append((bool(stop), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


CODE = """
import os, signal, sys, time
from minihf.training.signals import stop_on
with stop_on() as stop:
    ready, tell = os.pipe()
    child = os.fork()
    if not child:
        os.write(tell, b"!")  # Python forgets a signal that comes before a child knows that it is one
        time.sleep(60)
        os._exit(1)
    os.read(ready, 1)
    os.kill(child, signal.SIGTERM)
    print(os.WTERMSIG(os.waitpid(child, 0)[1]), flush=True)
    while not stop:
        time.sleep(0.01)
    print("saved", flush=True)
"""


def test_a_child_that_is_forked_inside_dies_of_it_and_the_run_saves_and_leaves():
    with subprocess.Popen(
        [sys.executable, "-c", CODE],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as run:
        assert run.stdout.readline() == f"{signal.SIGTERM:d}\n"
        run.send_signal(signal.SIGTERM)
        assert run.stdout.readline() == "saved\n"
        assert run.wait(10) == 0
