"""Threads that make one file operation at a time, when they are told to: every interleaving of drivers can be tried.

with SlowMotion() as motion:
    actor = motion.start(lambda: storage.commit("a", b"1"))
    while actor.step(): ...
"""

import functools
import os
import pathlib
import threading
from collections.abc import Callable
from typing import Any
from unittest import mock

OPERATIONS = ("open", "replace", "rename", "link", "unlink", "mkdir", "rmdir", "listdir", "scandir", "stat", "fsync")


class Cut(BaseException):
    """The process ends here, as by a power failure: no more operation is made, and nothing is put in order."""


class Actor:
    """A thread that waits before each of its file operations."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.error: BaseException | None = None
        self.operations: list[str] = []
        self.done = self.cut = False
        self._go, self._waiting = threading.Semaphore(0), threading.Semaphore(0)
        self._work = work
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._waiting.acquire()

    def _run(self) -> None:
        _current.actor = self
        try:
            self._work()
        except BaseException as error:
            self.error = error
        finally:
            self.done = True
            _current.actor = None
            self._waiting.release()

    def wait(self, name: str) -> None:
        """Called by the thread itself: stand still until `step` is called."""
        if not self.cut:
            self._waiting.release()
            self._go.acquire()
        if self.cut:
            raise Cut
        self.operations.append(name)

    def step(self) -> bool:
        """One more operation. False when there is none left."""
        if not self.done:
            self._go.release()
            self._waiting.acquire()
        return not self.done

    def end(self) -> None:
        """No more operation of this thread is made."""
        self.cut = True
        while not self.done:
            self.step()


_current = threading.local()


class SlowMotion:
    """Replaces the functions of `os` by ones that wait, in actors' threads alone."""

    def __init__(self) -> None:
        self.actors: list[Actor] = []
        self._patches = [mock.patch.object(os, name, _waiting(name, getattr(os, name))) for name in OPERATIONS]
        self._patches.append(mock.patch.object(pathlib.Path, "write_bytes", _write_bytes))

    def __enter__(self) -> "SlowMotion":
        for patch in self._patches:
            patch.start()
        return self

    def start(self, work: Callable[[], Any]) -> Actor:
        """A new thread, at its first operation."""
        self.actors.append(Actor(work))
        return self.actors[-1]

    def __exit__(self, *_: object) -> None:
        for actor in self.actors:
            actor.end()
        for patch in self._patches:
            patch.stop()


def _waiting(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    def operation(*arguments: Any, **options: Any) -> Any:
        actor = getattr(_current, "actor", None)
        if actor is not None:
            actor.wait(name)
            if name == "fsync":
                return None  # nothing here loses its power
        return real(*arguments, **options)

    return operation


def _write_bytes(path: pathlib.Path, data: bytes) -> int:
    """In two halves."""
    actor = getattr(_current, "actor", None)
    if actor is not None:
        actor.wait("create")
    with open(path, "wb") as file:
        file.write(data[:1])
        if actor is not None:
            actor.wait("write")
        file.write(data[1:])
    return len(data)
