"""A disk without room, for tests: what a write then meets is a real error of the kernel's."""

import contextlib
import resource
import signal


@contextlib.contextmanager
def room_for(num_bytes):
    """Inside, no file of this process grows beyond so many bytes."""
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
