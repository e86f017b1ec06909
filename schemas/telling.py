"""Never silent: what takes long is said before it begins, and that it goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

from schemas.terminal import say_error

EVERY_S = 10.0


@contextmanager
def telling(what: str, tell: Callable[[str], None] = say_error) -> Iterator[None]:
    """Say what is done inside, to standard error unless `tell` says otherwise; and every ten seconds for how long."""
    tell(what)
    over, started = threading.Event(), time.monotonic()

    def keep_telling() -> None:
        while not over.wait(EVERY_S):
            tell(f"{what}: {time.monotonic() - started:.0f} s so far")

    telling_on = threading.Thread(target=keep_telling, daemon=True)
    telling_on.start()
    try:
        yield
    finally:
        over.set()
        telling_on.join()


def loading(models: Iterable[str], otherwise: str = "nothing") -> AbstractContextManager[None]:
    """`telling` of models by their names, each once. otherwise: said where there are none, as of a server's."""
    return telling(f"loading {', '.join(dict.fromkeys(models)) or otherwise}")
