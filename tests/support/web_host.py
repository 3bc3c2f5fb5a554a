"""Hosts on the web for tests: real servers on this machine, and a fake name server."""

import gzip
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from tests.support.farm_jobs import picture_bytes

PICTURE = picture_bytes()


class Site(BaseHTTPRequestHandler):
    """A web site whose paths choose its behaviour, good and bad."""

    protocol_version = "HTTP/1.1"
    asked: list[tuple[str, str]]  # the path and the Host header of each request

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        self._body = self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers["Host"]))
        kind, _, rest = self.path[1:].partition("/")
        with suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError):
            getattr(self, f"_{kind}")(rest)

    def _picture(self, _: str) -> None:
        self._say(200, PICTURE)

    def _status(self, rest: str) -> None:
        self._say(int(rest), b"")

    def _to(self, rest: str) -> None:
        self._say(302, b"", Location=rest)

    def _times(self, rest: str) -> None:
        left = int(rest)
        self._say(302, b"", Location=f"/times/{left - 1}" if left > 1 else "../picture")

    def _headers(self, _: str) -> None:
        self._say(200, str(self.headers).encode())

    def _signed(self, rest: str) -> None:
        right = (self.command, self.headers["Signature"], self._body) == ("POST", rest, b"body")
        self._say(200 if right else 400, b"")

    def _short(self, rest: str) -> None:
        """So many bytes, without saying beforehand how many."""
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        self.wfile.write(bytes(int(rest)))

    def _announced(self, rest: str) -> None:
        """Say how many bytes there are, and send none."""
        self.send_response(200)
        self.send_header("Content-Length", rest)
        self.end_headers()
        self.close_connection = True

    def _packed(self, _: str) -> None:
        self._say(200, gzip.compress(bytes(2**22)), **{"Content-Encoding": "gzip"})

    def _endless(self, _: str) -> None:
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        for _part in range(1000):
            self.wfile.write(bytes(2**16))

    def _slow(self, _: str) -> None:
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        for _part in range(30):
            self.wfile.write(b"x")
            time.sleep(0.1)

    def _silent(self, _: str) -> None:
        time.sleep(1)
        self.close_connection = True

    def _cut(self, _: str) -> None:
        self.close_connection = True

    def _nonsense(self, _: str) -> None:
        self.wfile.write(b"\x00\xff" * 100)
        self.close_connection = True

    def _say(self, status: int, data: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Host:
    """A server of pictures: its port and URL, and the requests it got."""

    def __init__(self, server: ThreadingHTTPServer, asked: list[tuple[str, str]]) -> None:
        self.port = int(server.server_address[1])
        self.url, self.asked = f"http://127.0.0.1:{self.port}", asked


@contextmanager
def a_host(
    address: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> Iterator[Host]:
    asked: list[tuple[str, str]] = []
    server = ThreadingHTTPServer((address, port), type("Its", (Site,), {"asked": asked}))
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield Host(server, asked)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Names:
    """A fake `getaddrinfo`: a name's answers come one after the other, and the last one stays."""

    def __init__(self) -> None:
        self.answers: dict[str, list[list[str]]] = {}
        self.asked: list[str] = []
        self._real = socket.getaddrinfo

    def __call__(self, name: str, port: int, *options: Any, **named: Any) -> Any:
        self.asked.append(name)
        answers = self.answers.get(name)
        if answers is None:
            return self._real(name, port, *options, **named)
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        kinds = {True: socket.AF_INET6, False: socket.AF_INET}
        return [(kinds[":" in each], socket.SOCK_STREAM, 6, "", (each, port)) for each in found]
