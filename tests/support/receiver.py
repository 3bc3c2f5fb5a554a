"""A real server that receives webhooks, and jobs that have ended, for tests."""

import base64
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import openai

from farm.model.job import JobRecord, State
from tests.model.test_job import job

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
URL = "https://receiver.example/told"


class Receiver:
    """A server that records the webhooks it receives, and answers with given statuses."""

    def __init__(self) -> None:
        self.received: list[
            tuple[Mapping[str, str], bytes]
        ] = []  # headers and body of each webhook
        # The statuses of the next responses, and then 200; None cuts the connection.
        self.answers: list[int | None] = []

    def __enter__(self) -> "Receiver":
        receiver = self

        class Door(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.received.append(({k.lower(): v for k, v in self.headers.items()}, body))
                status = receiver.answers.pop(0) if receiver.answers else 200
                if status is not None:
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/told"
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def events(self) -> list[Any]:
        """The received events, verified and unwrapped by OpenAI's client."""
        client = openai.OpenAI(api_key="none", webhook_secret=SECRET)
        return [client.webhooks.unwrap(body, headers) for headers, body in self.received]

    def ids(self) -> set[str]:
        return {headers["webhook-id"] for headers, _ in self.received}


def ended(state: State = State.COMPLETED, **changes: Any) -> JobRecord:
    """A job that has just ended, with a webhook."""
    return job(state, webhook_url=URL, finished_at=time.time(), **changes)
