"""The public Python API: connect to a farm, submit pictures, and look up jobs.

A farm is reached at a server's URL or in a Ray cluster; if there is none, one is started.
"""

import os
from collections.abc import Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import lru_cache
from threading import Event
from types import TracebackType
from typing import Any, Self

from farm.client.job import Job
from farm.client.picture_argument import PictureLike, picture_bytes, picture_name
from farm.client.remote import ClusterRemote, Remote
from farm.errors import FarmError, QueueFullError, RequestError
from farm.model.parameters import check_parameters
from farm.settings import Address, Settings, load_settings

SUBMITTERS = 8  # submissions at once
ROOM_S = 30.0  # the longest pause before a submission to a full farm is retried


class Connection:
    """A connection to a farm, made by `connect`. A context manager that closes it at the end."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    def submit(self, picture: PictureLike, /, **parameters: Any) -> Job:
        """Submit a picture and return its job, which is in the farm's store by then.

        picture: a PIL image, a path, a file's bytes, or an array (H, W, 3) of uint8.
        parameters: the fields of `svd_engine.RenderParams` (seed, num_frames, fps,
        motion_bucket_id, ...) and their aliases (steps, ...), and model, variant, dtype,
        num_videos, priority (0-100), force, start_within_s, finish_within_s, webhook_url; tenant
        where it is not over HTTP.

        Raises RequestError, which says what is wrong with the request, QueueFullError, StoreError
        or WorkerError; over HTTP also AccessError or ServerError.
        """
        fields = check_parameters(parameters)
        data, name = picture_bytes(picture), picture_name(picture)
        return Job(self._remote, self._remote.submit(data, fields, name))

    def submit_many(self, pictures: Iterable[PictureLike], /, **parameters: Any) -> list[Job]:
        """Submit many pictures with the same parameters; returns their jobs in the same order.

        Waits while the farm is full. All or nothing: if a picture cannot be submitted, the jobs of
        the others are cancelled, and the error names that picture. Raises what `submit` does.
        """
        fields = check_parameters(parameters)
        stop = Event()
        with ThreadPoolExecutor(SUBMITTERS) as threads:
            submitted = [
                threads.submit(self._submit_one, number, picture, fields, stop)
                for number, picture in enumerate(pictures)
            ]
            try:
                done, _ = wait(submitted, return_when=FIRST_EXCEPTION)
                for job in submitted:
                    if job in done:
                        job.result()  # raise an error now: the others may wait long for room
                return [job.result() for job in submitted]
            except BaseException:
                stop.set()
                for job in submitted:
                    job.cancel()
                for job in submitted:
                    if not job.cancelled() and job.exception() is None:
                        _cancel(job.result())
                raise

    def job(self, id: str) -> Job:
        """Look up a job by its id, no matter who submitted it. JobError if there is none."""
        return Job(self._remote, self._remote.state(id))

    def close(self) -> None:
        """Close the connection. Jobs continue."""
        self._remote.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _submit_one(
        self, number: int, picture: PictureLike, fields: dict[str, Any], stop: Event
    ) -> Job:
        try:
            data = picture_bytes(picture)
            while True:
                try:
                    name = picture_name(picture)
                    return Job(self._remote, self._remote.submit(data, fields, name))
                except QueueFullError as error:
                    if stop.wait(min(ROOM_S, max(1.0, error.retry_after_s))):
                        raise
        except RequestError as error:
            name = f" ({picture})" if isinstance(picture, (str, os.PathLike)) else ""
            raise RequestError(f"picture {number}{name}: {error}") from error


def connect(url: str | None = None, api_key: str | None = None) -> Connection:
    """Connect to a farm: to a server by its URL, or without one to the farm that `submit` uses.

    url: for example http://host:8000. Raises RequestError if it is not a URL, and StoreError or
    WorkerError if there is no farm and none can be started.
    """
    if url is not None:
        return _reach(url, api_key)  # FARM_API_KEY belongs to FARM_URL, and is not sent elsewhere
    address = Address()
    if address.url is not None:
        return _reach(address.url, api_key or address.api_key)
    return _join(load_settings())


def submit(picture: PictureLike, /, **parameters: Any) -> Job:
    """Submit a picture to the default farm; `Connection.submit` describes the parameters.

    The default farm is the first of these:
    - the server at FARM_URL, with the key FARM_API_KEY;
    - the farm of a Ray cluster: the one this process is in, RAY_ADDRESS, or one on this machine;
    - a new farm that ends with this process. Its open jobs continue when it is started again.
    """
    return _default().submit(picture, **parameters)


def submit_many(pictures: Iterable[PictureLike], /, **parameters: Any) -> list[Job]:
    """Submit many pictures to the default farm, as `Connection.submit_many` does."""
    return _default().submit_many(pictures, **parameters)


def _default() -> Connection:
    """The connection to the default farm, reused while settings and cluster stay the same."""
    address = Address()
    if address.url is not None:
        return _reach_once(address.url, address.api_key)
    from farm.workers.cluster import session

    settings = load_settings()
    if not session():
        _join(settings)
    return _join_once(session(), settings.store)


@lru_cache(maxsize=8)
def _reach_once(url: str, api_key: str | None) -> Connection:
    return _reach(url, api_key)


@lru_cache(maxsize=1)
def _join_once(_session: str, _store: str) -> Connection:
    return _join(load_settings())


def _reach(url: str, api_key: str | None) -> Connection:
    from farm.client.http_remote import HttpRemote

    return Connection(HttpRemote(url, api_key))


def _join(settings: Settings) -> Connection:
    from farm.client.ray_link import connect as join

    return Connection(ClusterRemote(join(settings)))


def _cancel(job: Job) -> None:
    try:
        job.cancel()
    except FarmError:  # the job has finished or the farm is gone; the first error is raised instead
        return
