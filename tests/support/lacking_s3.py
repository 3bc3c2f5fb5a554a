"""A fake S3 server that lacks a feature, for tests of stores that only resemble S3."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest


class LackingServer(ThreadingHTTPServer):
    """Keeps objects in memory. `lacks` names the missing features:

    `If-Match`, `If-None-Match`: it ignores this header of writes. `501 If-Match`, ...: it refuses
    writes with this header. `holds`: it refuses all conditional writes. `checksums`: it refuses
    writes with a checksum. `writes`: it refuses all writes.
    """

    daemon_threads = True

    def __init__(self, lacks: tuple[str, ...]) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.lacks, self.objects = lacks, dict[str, bytes]()
        self.lock = threading.Lock()

    def refusal(self, key: str, headers: dict[str, str]) -> tuple[int, str] | None:
        """The status and the error code if a write is refused; None if it is accepted."""
        there = self.objects.get(key)
        if "writes" in self.lacks:
            return 400, "InvalidRequest"
        if "checksums" in self.lacks and any("checksum" in name for name in headers):
            return 400, "InvalidArgument"
        for name in ("If-Match", "If-None-Match"):
            given = headers.get(name.lower())
            if given is None or name in self.lacks:
                continue
            if f"501 {name}" in self.lacks:
                return 501, "NotImplemented"
            holds = (there is None) if given == "*" else given == etag(there)
            if "holds" in self.lacks or not holds:
                return 412, "PreconditionFailed"
        return None


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LackingServer

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.server.lock:
            refused = self.server.refusal(self._key, headers)
            if refused is None:
                self.server.objects[self._key] = data
        if refused is not None:
            self._answer(refused[0], f"<Error><Code>{refused[1]}</Code></Error>".encode())
        else:
            self._answer(200, b"", etag(data))

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if "list-type" in query:
            prefix = query["prefix"][0]
            keys = sorted(key for key in self.server.objects if key.startswith(prefix))
            found = "".join(
                f"<Contents><Key>{escape(key)}</Key><Size>{len(self.server.objects[key])}</Size>"
                "<LastModified>2026-11-28T12:00:00Z</LastModified></Contents>"
                for key in keys
            )
            truncated = "<IsTruncated>false</IsTruncated>"
            self._answer(200, f"<ListBucketResult>{truncated}{found}</ListBucketResult>".encode())
            return
        data = self.server.objects.get(self._key)
        if data is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            self._answer(200, data, etag(data))

    do_HEAD = do_GET  # noqa: N815

    def do_DELETE(self) -> None:
        self.server.objects.pop(self._key, None)
        self._answer(204, b"")

    @property
    def _key(self) -> str:
        return unquote(urlsplit(self.path).path).split("/", 2)[2]

    def _answer(self, status: int, body: bytes, tag: str = "") -> None:
        self.send_response(status)
        if tag:
            self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def etag(data: bytes | None) -> str:
    return f'"{hashlib.md5(data or b"").hexdigest()}"'


@contextmanager
def lacking_server(*lacks: str) -> Iterator[LackingServer]:
    """Run such a server, and point boto3 to it."""
    server = LackingServer(lacks)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            patch.setenv(name, "/nonexistent")
        patch.setenv("no_proxy", "127.0.0.1")
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
