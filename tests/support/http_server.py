"""A fake server of the API `/v1/videos`, with faults that tests inject."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from svd_engine.video import encode_video

FRAMES = np.stack([np.full((48, 64, 3), 40 * n, np.uint8) for n in range(5)])
# A job in progress as the first version of the server described it, and a field of the future.
VIDEO: dict[str, Any] = {
    "id": "job-0",
    "object": "video",
    "created_at": 1,
    "completed_at": None,
    "model": "tiny",
    "progress": 33,
    "seconds": "1",
    "size": "64x48",
    "status": "in_progress",
    "error": None,
    "state": "running",
    "stage": "denoise",
    "step": 2,
    "steps": 5,
    "chunk": 0,
    "chunks": 1,
    "queue_position": None,
    "eta_s": 3.0,
    "seed": 0,
    "num_frames": 5,
    "fps": 7,
    "num_videos": 1,
    "priority": 50,
    "gpu_seconds": 0.0,
    "attempts": 0,
    "news": "a field to come",
}
# Answers a request in the server's place, or does nothing and lets it.
Fault = Callable[["Door"], bool]


@dataclass
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    fields: dict[str, str] = field(default_factory=dict)
    picture: bytes = b""


class Videos(ThreadingHTTPServer):
    """The server: its jobs, the requests it got, and the faults that the next requests meet."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Door)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.jobs: dict[str, dict[str, Any]] = {}
        self.keys: dict[str, str] = {}  # jobs by idempotency key
        self.asked: list[Asked] = []
        self.faults: list[Fault] = []
        self.looks_until_done = 2
        self.fails_with: str | None = None
        self.key: str | None = None
        self.video = encode_video(FRAMES, 7)

    def create(self, asked: Asked) -> dict[str, Any]:
        key = asked.headers.get("idempotency-key", "")
        if key not in self.keys:
            self.keys[key] = f"job-{len(self.jobs)}"
            self.jobs[self.keys[key]] = {"looks": 0, "fields": asked.fields, "state": "queued"}
        return self.view(self.keys[key])

    def look(self, name: str) -> dict[str, Any]:
        job = self.jobs[name]
        job["looks"] += 1
        if job["state"] in ("queued", "running"):
            job["state"] = "running"
            if job["looks"] >= self.looks_until_done:
                job["state"] = "failed" if self.fails_with else "completed"
        return self.view(name)

    def view(self, name: str) -> dict[str, Any]:
        job = self.jobs[name]
        state, fields = job["state"], job["fields"]
        done = state == "completed"
        video = VIDEO | {"id": name, "state": state, "num_videos": int(fields.get("num_videos", 1))}
        if state == "failed":
            video["error"] = {"code": "failed", "message": self.fails_with}
        if done:
            video |= {"stage": None, "step": 5, "chunk": 1, "progress": 100}
        return video


class Door(BaseHTTPRequestHandler):
    server: Videos
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._take("GET")

    def do_POST(self) -> None:
        self._take("POST")

    def _take(self, method: str) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.asked = Asked(method, self.path, headers)
        body = self.rfile.read(int(headers.get("content-length", 0)))
        self._parse(headers.get("content-type", ""), body)
        self.server.asked.append(self.asked)
        fault = self.server.faults.pop(0) if self.server.faults else None
        if fault and fault(self):
            return
        if self.server.key and headers.get("authorization") != f"Bearer {self.server.key}":
            self.error(401, "this key is not known")
        else:
            self._answer(urlsplit(self.path))

    def _parse(self, kind: str, body: bytes) -> None:
        if not kind.startswith("multipart/"):
            return
        parts: Any = message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
        for part in parts.get_payload():
            name = part.get_param("name", header="content-disposition")
            data = part.get_payload(decode=True)
            if part.get_filename():
                assert name == "input_reference"
                self.asked.picture = data
            else:
                self.asked.fields[name] = data.decode()

    def _answer(self, url: Any) -> None:
        _, _, _, *rest = url.path.split("/")  # /v1/videos[/ID[/what]]
        if not rest:
            return self.json(200, self.server.create(self.asked))
        job, what = rest[0], rest[1] if rest[1:] else ""
        if job not in self.server.jobs:
            return self.error(404, f"there is no video {job!r}")
        if what == "cancel":
            if self.server.jobs[job]["state"] == "completed":
                return self.error(409, f"{job} is completed: it cannot cancel")
            self.server.jobs[job]["state"] = "cancelled"
            return self.json(200, self.server.view(job))
        if what == "content":
            return self._content({k: v[0] for k, v in parse_qs(url.query).items()})
        if what == "events":
            return self._events(job)
        return self.json(200, self.server.look(job))

    def _content(self, query: dict[str, str]) -> None:
        if query["index"] == "1":  # redirect, as for a clip in a bucket
            self.send_response(302)
            self.send_header("Location", f"{self.path.replace('index=1', 'index=0')}&moved")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = self.server.video if query["variant"] == "video" else b"\xff\xd8"
        self.body(200, data, "video/mp4")

    def _events(self, job: str, cut_after: int | None = None) -> None:
        after = int(self.headers.get("Last-Event-ID", 0))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._chunk(": here\n\n")
        for seq, name in enumerate(("submitted", "start", "progress", "complete"), start=1):
            if seq > after:
                self._chunk(f'id: {seq}\nevent: {name}\ndata: {{"at": {seq}.5, "n": {seq}}}\n\n')
            if seq == cut_after:
                self.close_connection = True
                return
        self.server.jobs[job]["state"] = "completed"
        self._chunk("")

    def _chunk(self, text: str) -> None:
        self.wfile.write(f"{len(text):x}\r\n{text}\r\n".encode())

    def json(self, status: int, value: Any, **headers: str) -> None:
        self.body(status, json.dumps(value).encode(), "application/json", **headers)

    def error(self, status: int, message: str, **headers: str) -> None:
        detail = {"message": message, "type": "x", "param": None, "code": None}
        self.json(status, {"error": detail}, **headers)

    def body(self, status: int, data: bytes, kind: str, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def lose_the_answer(door: Door) -> bool:
    """Carry the request out, but cut the connection before the response."""
    if door.path == "/v1/videos":
        door.server.create(door.asked)
    door.close_connection = True
    return True


def say(status: int, message: str, **headers: str) -> Fault:
    def fault(door: Door) -> bool:
        door.error(status, message, **headers)
        return True

    return fault


def send(status: int, data: bytes, kind: str = "application/json") -> Fault:
    def fault(door: Door) -> bool:
        door.body(status, data, kind)
        return True

    return fault


def cut_the_events(after: int) -> Fault:
    def fault(door: Door) -> bool:
        door._events(door.path.split("/")[3], cut_after=after)
        return True

    return fault


def no_fault(door: Door) -> bool:
    return False


@contextmanager
def serving() -> Iterator[Videos]:
    with Videos() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
