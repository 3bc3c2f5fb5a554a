"""A farm behind an HTTP server with /v1/videos. Requests are retried until they are answered."""

import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import httpx2 as httpx
from pydantic import ValidationError

from farm.artifacts import ArtifactName
from farm.caller import new_request_id
from farm.client.remote import PATIENCE_S, TICK_S, Patience
from farm.errors import (
    AccessError,
    FarmError,
    JobError,
    QueueFullError,
    RequestError,
    ServerError,
)
from farm.model.job import LogEntry
from farm.model.wire import ErrorBody, Video
from svd_engine.values import as_text

RETRYABLE = (429, 502, 503, 504)
CONNECT_S = 10.0
READ_S = 30.0
SLOW_S = 600.0  # a submit may read the weights of a model, a cancel waits for a step to end
SILENCE_S = 90.0  # of an event stream, in which the server sends keep-alive comments
HELD_S = 5.0  # an event stream that stayed open this long counts as answered
POLL_S = 0.1  # the first pause between two polls of a job; pauses grow to TICK_S
SHOWN = 300  # characters of an unexpected answer in a message


class HttpRemote:
    """A farm, reached through its HTTP server."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        """url: such as http://host:8000. Raises RequestError for anything else."""
        self._url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        try:
            address = httpx.URL(self._url)
            if address.scheme not in ("http", "https") or not address.host:
                raise RequestError(f"the farm's URL: give one as http://host:8000, got {url!r}")
            self._client = httpx.Client(base_url=address, headers=headers)
        except httpx.InvalidURL as error:
            raise RequestError(f"the farm's URL: {error}, got {url!r}") from error
        except UnicodeEncodeError as error:
            raise RequestError("api_key: has characters that no header can hold") from error

    def submit(self, picture: bytes, fields: Mapping[str, Any], name: str = "") -> Video:
        if "tenant" in fields:
            raise RequestError("tenant: over HTTP it is the key's own")
        # A part without a file name would not be a file.
        filename = name.encode(errors="replace").decode() or "picture"
        answer = self._send(
            "POST",
            "/v1/videos",
            read_s=SLOW_S,
            data={name: as_text(value) for name, value in fields.items()},
            files={"input_reference": (filename, picture)},
            # All attempts use the same key, so that a lost answer does not render twice.
            headers={"Idempotency-Key": str(uuid.uuid4())},
        )
        return self._video(answer)

    def state(self, job: str) -> Video:
        return self._video(self._send("GET", _path(job)))

    def watch(self, jobs: Sequence[str], until: float | None) -> Iterator[list[Video]]:
        left: dict[str, Video | None] = dict.fromkeys(jobs)
        pause = POLL_S
        while left:
            for job in list(left):
                now = self._look(job, until)
                if now is None:
                    return
                news = [now] if now != left[job] else []
                pause = POLL_S if news else pause
                left[job] = now
                if not now.state.is_open:
                    del left[job]
                yield news
                if _left(until) <= 0:
                    return
            if left:
                time.sleep(min(pause, _left(until)))
                pause = min(1.5 * pause, TICK_S)

    def cancel(self, job: str) -> Video:
        return self._video(self._send("POST", f"{_path(job)}/cancel", read_s=SLOW_S))

    def content(self, job: str, artifact: ArtifactName, index: int) -> bytes:
        params = {"variant": artifact, "index": str(index)}
        path = f"{_path(job)}/content"
        return self._send("GET", path, params=params, follow_redirects=True).content

    def events(self, job: str, after: int) -> Iterator[LogEntry]:
        patience = Patience()
        while True:
            open_still = self.state(job).state.is_open  # asked first, so that no event is missed
            began = time.monotonic()
            try:
                for entry in self._stream(job, after):
                    after = entry.seq
                    patience = Patience()
                    yield entry
                failure = None
            except httpx.SSEError as error:
                raise ServerError(f"{self._url} sent invalid events: {error}") from error
            except httpx.RequestError as error:
                failure = self._silent(error)
            if failure is None and not open_still:
                return
            if time.monotonic() - began > HELD_S:
                patience = Patience()
            if not patience.pause():
                raise failure or ServerError(f"{self._url}: the events of {job} do not end")

    def close(self) -> None:
        self._client.close()

    def _look(self, job: str, until: float | None) -> Video | None:
        """The current state of a job; None if there was no answer by `until`."""
        seconds = max(0.1, min(PATIENCE_S, _left(until)))
        patience = Patience(seconds)
        try:
            answer = self._send("GET", _path(job), patience, min(READ_S, seconds))
        except (ServerError, QueueFullError):
            if not patience.spent or seconds == PATIENCE_S:
                raise
            time.sleep(max(0.0, _left(until)))  # there is no time for another attempt
            return None
        return self._video(answer)

    def _stream(self, job: str, after: int) -> Iterator[LogEntry]:
        timeout = httpx.Timeout(SILENCE_S, connect=CONNECT_S)
        headers = {"Last-Event-ID": str(after)} if after else {}
        with self._client.sse(f"{_path(job)}/events", headers=headers, timeout=timeout) as source:
            answer = source.response
            if not answer.is_success:
                answer.read()
                if answer.status_code in RETRYABLE:
                    raise httpx.RemoteProtocolError(f"{answer.status_code} {_message(answer)}")
                raise self._error_of(answer)
            for event in source:
                try:
                    data = json.loads(event.data)
                    seq, at = int(event.id), data.pop("at")
                    yield LogEntry(job=job, seq=seq, at=at, event=event.event, data=data)
                except (ValueError, LookupError, TypeError, AttributeError) as error:
                    raise ServerError(
                        f"{self._url} sent an invalid event: {event.data[:SHOWN]}"
                    ) from error

    def _send(
        self,
        method: str,
        path: str,
        patience: Patience | None = None,
        read_s: float = READ_S,
        **options: Any,
    ) -> httpx.Response:
        """The first successful answer. Raises FarmError once a retry cannot help."""
        patience = patience or Patience()
        timeout = httpx.Timeout(read_s, connect=min(CONNECT_S, read_s))
        # All attempts are one request in the farm's log.
        options["headers"] = {"X-Request-ID": new_request_id(), **options.get("headers", {})}
        while True:
            pause = None
            try:
                answer = self._client.request(method, path, timeout=timeout, **options)
            except httpx.RequestError as error:
                failure: FarmError = self._silent(error)
            else:
                if answer.is_success:
                    return answer
                failure = self._error_of(answer)
                if answer.status_code not in RETRYABLE:
                    raise failure
                pause = _retry_after(answer)
            if not patience.pause(pause):
                raise failure

    def _silent(self, error: httpx.RequestError) -> ServerError:
        return ServerError(f"{self._url} does not answer: {str(error) or type(error).__name__}")

    def _error_of(self, answer: httpx.Response) -> FarmError:
        message, status = _message(answer), answer.status_code
        if status in (400, 413, 422):
            return RequestError(message)
        if status in (401, 403):
            return AccessError(f"{self._url}: {message}")
        if status in (404, 409):
            return JobError(message)
        if status == 429:
            return QueueFullError(message, _retry_after(answer) or 0.0)
        return ServerError(f"{answer.url} answered {status}: {message}")

    def _video(self, answer: httpx.Response) -> Video:
        try:
            return Video.model_validate_json(answer.content)
        except ValidationError as error:
            raise ServerError(
                f"{answer.url} answered with something that is no video: {answer.text[:SHOWN]}"
            ) from error


def _path(job: str) -> str:
    return f"/v1/videos/{quote(job, safe='')}"


def _left(until: float | None) -> float:
    return float("inf") if until is None else until - time.monotonic()


def _message(answer: httpx.Response) -> str:
    try:
        return ErrorBody.model_validate_json(answer.content).error.message
    except ValidationError:
        return answer.text.strip()[:SHOWN] or answer.reason_phrase


def _retry_after(answer: httpx.Response) -> float | None:
    """The seconds in a Retry-After header, which may also have a date."""
    text = answer.headers.get("Retry-After", "")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # not a date, or one without a time zone
        return None
