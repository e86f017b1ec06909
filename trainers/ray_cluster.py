"""The one way into a Ray cluster: that of RAY_ADDRESS, or one that is started for this process and ends with it.

Ray takes signals for itself when it starts: its handlers end the process on the first SIGTERM (Python's at once, its
C++ one within three seconds), and what it starts stands in our process group, so that a SIGTERM to the group ends the
cluster under us. Here our handlers stay, and a local cluster has process groups of its own: one SIGTERM reaches this
process alone, which finishes what is at hand.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from schemas.errors import InputError, WorkFailedError
from schemas.terminal import say_error

PROBE_S = 10.0
"""A cluster that has not answered for so long is not there; Ray itself would ask for minutes."""
_FIELD = "RAY_ADDRESS"
_EXPECTED = (
    "HOST:PORT of a cluster's head, as `ray start --head` prints it; ray://HOST:PORT; auto, for the cluster of this "
    "machine; or none, and one is started here"
)
# Of HTTP/2, which gRPC speaks (RFC 9113, 3.4 and 6.5): what a client begins with, and the type of a server's first
# frame.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
_SETTINGS = 4


def join(environment: Mapping[str, str], num_cpus: int | None = None, *, log_to_driver: bool = False) -> None:
    """Join RAY_ADDRESS's cluster, which a submitted job finds there, or start one here. environment: that workers get.
    num_cpus: of one that is started; None: the cores. InputError, within seconds, for an address where no cluster
    answers; WorkFailedError where none can be started."""
    require_ray()
    import ray

    # Said explicitly, so that head, workers and later drivers agree; a cluster that is there keeps its own mode.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    address = os.environ.get("RAY_ADDRESS", "").strip()
    is_local = address in ("", "local")
    if not is_local:
        probe(address)
    say_error(f"joining the Ray cluster at {address}" if not is_local else "starting Ray here")
    size: dict[str, Any] = {"num_cpus": num_cpus, "include_dashboard": False} if is_local else {}
    try:
        with _our_signals(), _own_process_groups():
            ray.init(
                address="local" if is_local else address,
                log_to_driver=log_to_driver,
                runtime_env={"env_vars": dict(environment)},
                **size,
            )
    except Exception as error:  # Ray raises whatever it likes, plain Exception included
        if is_local:
            raise WorkFailedError(f"Ray does not start here: {type(error).__name__}: {error}") from error
        raise InputError(f"{address}: {error}", field=_FIELD, expected=_EXPECTED) from error


def require_ray() -> None:
    """InputError where Ray is not installed."""
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"Ray does not import here: {error}",
            field="--runtime ray, --workers",
            expected="the packages of requirements-core.txt; or --runtime local, --workers 1",
        ) from error


def probe(address: str, limit_s: float = PROBE_S) -> None:
    """InputError unless something that may be a Ray cluster answers. address: as in RAY_ADDRESS."""
    if address == "auto":
        return  # Ray looks for this machine's own, and says so at once where there is none
    place = address.removeprefix("ray://")
    host, _, port = place.rpartition(":")
    host = host.strip("[]")
    if "/" in place or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise InputError(f"{address!r} is no address of a Ray cluster", field=_FIELD, expected=_EXPECTED)
    problem = _problem_at(host, int(port), limit_s)
    if problem:
        raise InputError(
            f"no Ray cluster answers at {address}: {problem}\n"
            f"  start it (`ray start --head --port={port}` on {host}), or unset {_FIELD} to have one started here",
            field=_FIELD,
            expected=_EXPECTED,
        )


def _problem_at(host: str, port: int, limit_s: float) -> str | None:
    try:
        with socket.create_connection((host, port), timeout=limit_s) as connection:
            if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
                return None  # it would have to be asked under TLS
            connection.sendall(_PREFACE)
            head = b""
            while len(head) < 4:
                more = connection.recv(4 - len(head))
                if not more:
                    break
                head += more
    except TimeoutError:
        return f"nothing came within {limit_s:g} s"
    except (OSError, UnicodeError) as error:
        return str(error)
    return None if len(head) == 4 and head[3] == _SETTINGS else "what answers there is something else"


@contextlib.contextmanager
def _our_signals() -> Iterator[None]:
    """Inside, Ray sets no handler of Python's; at the end ours are set again, over what its C++ side has set."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    import ray._private.utils as utils

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    sets = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = sets
        for number, handler in before.items():
            if handler is not None:  # None: set by something that is not Python, and so not ours to set again
                signal.signal(number, handler)


@contextlib.contextmanager
def _own_process_groups() -> Iterator[None]:
    """Inside, each process that Ray starts leads a process group. (It still ends with us: the kernel sees to that.)"""
    import ray._private.services as services

    plain: Any = services.ConsolePopen
    services.ConsolePopen = partial(plain, process_group=0)
    try:
        yield
    finally:
        services.ConsolePopen = plain
