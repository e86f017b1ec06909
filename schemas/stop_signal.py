"""Being asked to stop: the first SIGINT or SIGTERM lets the work at hand be finished, the second ends it."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def stop_signal(at_hand: str = "the block") -> Iterator[Callable[[], bool]]:
    """SIGINT or SIGTERM once: finish what is at hand and stop. Twice: KeyboardInterrupt. Yields "was it asked to
    stop?". at_hand: what is finished, for people."""
    asked = threading.Event()
    words = f"stopping after {at_hand} at hand; once more to stop now\n".encode()

    def handle(number: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        # Not print: the handler may run in the middle of one, whose buffer takes no second writer.
        os.write(2, words)

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def ended_like_interrupted() -> Iterator[None]:
    """Inside, SIGTERM ends the work as Ctrl-C does, by a KeyboardInterrupt: what was begun is tidied up."""

    def handle(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def leave_signals_to_parent(worker: int = 0) -> None:
    """For a process that works for another one, of the same process group: who is asked to stop is the other."""
    del worker  # torch's loaders say which one it is
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
