"""What RAY_ADDRESS may say, and what comes of a cluster that is not there: an error within seconds."""

import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from schemas.errors import InputError
from trainers.ray_cluster import join, probe

ROOT = Path(__file__).parents[2]


@contextmanager
def server(says: bytes | None):
    """Listens at a port, answers whoever comes with these bytes; None: with nothing, for ever. Yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        kept = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                kept.append(connection)
                if says is not None:
                    connection.sendall(says)
                    connection.shutdown(socket.SHUT_WR)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


GARBAGE = (
    "garbage",
    "1.2.3.4",
    ":6379",
    "host:",
    "host:port",
    "host:99999",
    "http://host:8265",
    "ray://",
    "a b:c",
    "٣:٣",
)


@pytest.mark.parametrize("address", GARBAGE)
def test_what_is_no_address_is_refused_with_what_is_one(address):
    with pytest.raises(InputError, match="is no address of a Ray cluster") as refused:
        probe(address)
    assert refused.value.field == "RAY_ADDRESS"
    assert "ray start --head" in str(refused.value)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_cluster_that_is_gone_is_named_at_once(monkeypatch, scheme):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # nobody else gets the port, and nobody listens there
        port = free.getsockname()[1]
        monkeypatch.setenv("RAY_ADDRESS", f"{scheme}127.0.0.1:{port}")
        with pytest.raises(InputError, match=f"no Ray cluster answers at {scheme}127.0.0.1:{port}: .*refused"):
            join({})


@pytest.mark.parametrize("says", [None, b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\x00\x00\x07"])
def test_what_listens_there_but_is_no_cluster_is_told_apart(says):
    with server(says) as address, pytest.raises(InputError, match=r"nothing came within|something else"):
        probe(address, limit_s=0.5)


def test_what_speaks_as_a_cluster_does_is_let_through():
    with server(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00") as address:
        probe(address)
        probe(f"ray://{address}")


def test_a_run_ends_with_2_and_says_what_to_do(tmp_path):
    """A name that nobody resolves, as a typing error gives."""
    started = time.monotonic()
    code = (
        "import os, sys; os.environ['RAY_ADDRESS'] = 'no-such-host.invalid:6379'; from commands.main import main; "
        "sys.exit(main(sys.argv[1:]))"
    )
    flags = ["run", "--run", str(tmp_path / "run"), "--preset", "micro", "--num-prompts", "4", "--runtime", "ray"]
    done = subprocess.run([sys.executable, "-c", code, *flags], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "no Ray cluster answers at no-such-host.invalid:6379" in done.stderr
    assert "unset RAY_ADDRESS" in done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - started < 120


def test_without_ray_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"Ray does not import here(.|\n)*requirements-core"):
        join({})
