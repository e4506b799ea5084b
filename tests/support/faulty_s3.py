"""A proxy before an S3 server that answers some requests with 503 and drops some connections, seeded."""

import http.client
import random
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit

Fault = Literal["busy", "unheard", "unanswered", "cut"]
"""503; a connection that is dropped before the request is carried out, after it, or in the middle of the answer."""

DENIED = b"<Error><Code>AccessDenied</Code><Message>This is refused.</Message></Error>"
BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class Faults:
    """What goes wrong with which request, and how often that was."""

    def __init__(self, seed: int, busy: float, dropped: float) -> None:
        """Draw from a seed: `busy` of all requests are answered with 503, `dropped` lose their connection."""
        self._draws, self._lock = random.Random(seed), threading.Lock()
        self._busy, self._dropped = busy, dropped
        self.counts: Counter[Fault | None] = Counter()
        self.denied: str | None = None
        """A regular expression for `COMMAND path` of what is answered with 403."""
        self.address = ""
        """HOST:PORT of the proxy."""

    def uri(self, path: str) -> str:
        """An address in the store by way of the proxy."""
        return f"s3://{path}?endpoint_override={self.address}&scheme=http"

    def draw(self) -> Fault | None:
        """Of the next request."""
        with self._lock:
            draw, fault = self._draws.random(), None
            if draw < self._busy:
                fault = "busy"
            elif draw < self._busy + self._dropped:
                fault = self._draws.choice(("unheard", "unanswered", "cut"))
            self.counts[fault] += 1
            return fault


@contextmanager
def faulty(endpoint: str, seed: int, busy: float = 0.1, dropped: float = 0.02) -> Iterator[Faults]:
    """Put the proxy before the server at HOST:PORT."""
    faults = Faults(seed, busy, dropped)
    handler = type("Handler", (_Handler,), {"server_behind": endpoint, "faults": faults})
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    faults.address = "{}:{}".format(*server.server_address)
    try:
        yield faults
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that the client drops are no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_behind: str
    faults: Faults

    def handle_any(self) -> None:
        fault, body = self.faults.draw(), self._body()
        if self.faults.denied is not None and re.match(self.faults.denied, f"{self.command} {self.path}"):
            self._answer(403, [("Content-Type", "application/xml")], DENIED)
            return
        if fault == "unheard":
            self.close_connection = True
            return
        if fault == "busy":
            self._answer(503, [("Content-Type", "application/xml")], BUSY)
            return
        status, headers, content = self._pass_on(body)
        if fault is None or fault == "cut" and len(content) < 2:
            self._answer(status, headers, content)
            return
        self.close_connection = True
        if fault == "cut":
            self._answer(status, headers, content, len(content) // 2)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

    def log_message(self, format: str, *values: object) -> None:
        pass

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return body

    def _pass_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        host, port = urlsplit(f"//{self.server_behind}").hostname, urlsplit(f"//{self.server_behind}").port
        connection = http.client.HTTPConnection(host or "", port)
        left_out = ("transfer-encoding", "expect", "connection", "content-length")
        headers = {name: value for name, value in self.headers.items() if name.lower() not in left_out}
        connection.request(self.command, self.path, body, {**headers, "Content-Length": str(len(body))})
        answer = connection.getresponse()
        content = answer.read()
        kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in left_out[:3]]
        connection.close()
        return answer.status, kept, content

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, sent: int | None = None) -> None:
        """Send the answer, or the first `sent` bytes of its content."""
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if not any(name.lower() == "content-length" for name, _ in headers):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:sent])
