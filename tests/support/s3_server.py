"""A real S3 server on loopback (moto), and a proxy before it that fails in the ways networks and stores fail.

server = S3Server()            moto in this process
proxy = FlakyProxy(server.port)
proxy.rule = lambda method, path: "500" if "partNumber=3" in path else "pass"
"""

import functools
import http.client
import logging
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

INTERNAL_ERROR = b"<Error><Code>InternalError</Code><Message>We encountered an internal error</Message></Error>"
_AUTHORIZATION = "AWS4-HMAC-SHA256 Credential=tester/20250101/us-east-1/s3/aws4_request, SignedHeaders=, Signature=0"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "tester",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_MAX_ATTEMPTS": "2",
}


class S3Server:
    """moto's S3, and a bucket named `bucket`."""

    def __init__(self) -> None:
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        self.port = self._server.get_host_and_port()[1]
        self.request("PUT", "/bucket")

    def request(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """A request past every proxy and client: status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path, body, {"Authorization": _AUTHORIZATION})
        response = connection.getresponse()
        return response.status, response.read()

    def put_many(self, keys: list[str], body: bytes = b"x") -> None:
        """Objects put straight into the server's memory, since a request takes 10 ms."""
        from moto.core import DEFAULT_ACCOUNT_ID
        from moto.s3.models import s3_backends

        backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
        for key in keys:
            backend.put_object("bucket", key, body)


@functools.cache
def shared_server() -> S3Server:
    """One server for all tests of a process."""
    return S3Server()


class FlakyProxy:
    """Passes requests on, but for those that `rule(method, path)` says otherwise of:

    "500" an error; "403" refused; "hang" no answer until `release` is set; "late" done when `release` is set; "drop"
    the connection is closed; "forward and drop" closed once it is done; "cut" half of the answer. `seen`: (method,
    path, what was done) of every request. `reached` is set by the first that hangs or is late.
    """

    def __init__(self, upstream_port: int) -> None:
        self.rule: Callable[[str, str], str] = lambda method, path: "pass"
        self.seen: list[tuple[str, str, str]] = []
        self.reached, self.release = threading.Event(), threading.Event()
        proxy = self

        class Handler(_Handler):
            upstream, state = upstream_port, proxy

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """No more connections."""
        self.release.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream: int
    state: FlakyProxy

    def handle_one(self) -> None:
        body = self._body()
        action = self.state.rule(self.command, self.path)
        self.state.seen.append((self.command, self.path, action))
        if action in ("hang", "late"):
            self.state.reached.set()
            self.state.release.wait(90)
        if action in ("hang", "drop"):
            self.close_connection = True
        elif action in ("500", "403"):
            error = INTERNAL_ERROR if action == "500" else INTERNAL_ERROR.replace(b"InternalError", b"AccessDenied")
            self._answer(int(action), [], b"" if self.command == "HEAD" else error)
        else:
            self._forward(body, action)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_one

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _forward(self, body: bytes, action: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=60)
        dropped = ("expect", "transfer-encoding", "content-length", "connection")
        connection.request(
            self.command, self.path, body, {k: v for k, v in self.headers.items() if k.lower() not in dropped}
        )
        response = connection.getresponse()
        data = response.read()
        if action == "forward and drop":
            self.close_connection = True
            return
        cut = action == "cut"
        headers = [(k, v) for k, v in response.getheaders() if k.lower() not in ("connection", "transfer-encoding")]
        if all(k.lower() != "content-length" for k, _ in headers):
            headers.append(("Content-Length", str(len(data))))
        self._answer(response.status, headers, data[: len(data) // 2] if cut else data)
        self.close_connection = self.close_connection or cut

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers or [("Content-Length", str(len(body)))]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet."""
