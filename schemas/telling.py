"""Never silent: what takes long is said before it begins, and that it goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

from schemas.terminal import say_error

EVERY_S = 10.0


@contextmanager
def telling(what: str, tell: Callable[[str], None] = say_error, again: str | None = None) -> Iterator[None]:
    """Say what is done inside, to standard error unless `tell` says otherwise; and every ten seconds for how long.
    again: what is said then, shorter; None: the same."""
    tell(what)
    over, started = threading.Event(), time.monotonic()

    def keep_telling() -> None:
        while not over.wait(EVERY_S):
            tell(f"still {again or what}, {time.monotonic() - started:.0f} s")

    telling_on = threading.Thread(target=keep_telling, daemon=True)
    telling_on.start()
    try:
        yield
    finally:
        over.set()
        telling_on.join()


def loading(models: Iterable[str], otherwise: str = "nothing") -> AbstractContextManager[None]:
    """`telling` of models by their names, each once. otherwise: said where there are none, as of a server's."""
    names = list(dict.fromkeys(models)) or [otherwise]
    others = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return telling(f"loading {', '.join(names)}", again=f"loading {names[0]}{others}")
