"""Back-pressure by bytes: how much may be under way at once in one process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class ByteGate:
    """Lets in as much as fits; what is larger than everything goes in alone."""

    def __init__(self, limit: int) -> None:
        self.limit, self.inside, self._count = limit, 0, 0
        self._changed = threading.Condition()

    @contextmanager
    def entered(self, size: int) -> Iterator[None]:
        """Waits for room of so many bytes, and holds it."""
        with self._changed:
            self._changed.wait_for(lambda: not self._count or self.inside + size <= self.limit)
            self.inside += size
            self._count += 1
        try:
            yield
        finally:
            with self._changed:
                self.inside -= size
                self._count -= 1
                self._changed.notify_all()
