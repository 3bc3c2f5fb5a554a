"""Ways to a farm from Python: a server's URL, the Ray cluster this is in, or a farm of its own."""

import os
from collections.abc import Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import lru_cache
from threading import Event
from types import TracebackType
from typing import Any, Self

from farm.client.job import Job
from farm.client.picture import Picture, picture_bytes, picture_name
from farm.client.remote import ClusterRemote, Remote
from farm.errors import FarmError, QueueFullError, RequestError
from farm.model.parameters import check_parameters
from farm.settings import Address, Settings, load_settings

SUBMITTERS = 8  # submissions under way at once
ROOM_S = 30.0  # the longest between two looks whether a full farm has room


class Connection:
    """A farm that takes jobs; made by `connect`."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    def submit(self, picture: Picture, /, **parameters: Any) -> Job:
        """Hand a picture over; the job is in the farm's store once this returns.

        picture: a PIL image, a path, a file's bytes or an array (H, W, 3) of uint8.
        parameters: the fields of `svd_engine.RenderParams` (seed, num_frames, fps,
        motion_bucket_id, ...), and model, variant, dtype, num_videos, priority (0-100), force,
        start_within_s, finish_within_s; tenant where it is not over HTTP.

        Raises RequestError, which names what is wrong, QueueFullError, StoreError, WorkerError;
        over HTTP AccessError and ServerError.
        """
        fields = check_parameters(parameters)
        data, name = picture_bytes(picture), picture_name(picture)
        return Job(self._remote, self._remote.submit(data, fields, name))

    def submit_many(self, pictures: Iterable[Picture], /, **parameters: Any) -> list[Job]:
        """Hand many pictures over, with the same parameters; their jobs, in the same order.

        Waits while the farm is full. All or nothing: where a picture cannot be submitted, the
        others' jobs are cancelled, and the error names it.
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
                        job.result()  # raises where another may wait for room for long
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
        """A job by its id, whoever submitted it. JobError where there is none."""
        return Job(self._remote, self._remote.state(id))

    def close(self) -> None:
        """Let go of what is open; jobs go on."""
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
        self, number: int, picture: Picture, fields: dict[str, Any], stop: Event
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
    """Open the way to a farm: to a server, or without a URL as `submit` finds it.

    url: as http://host:8000. Raises RequestError for what is no URL, StoreError or WorkerError
    where there is no farm and none can be started.
    """
    if url is not None:
        return _reach(url, api_key)  # FARM_API_KEY is for FARM_URL alone
    address = Address()
    if address.url is not None:
        return _reach(address.url, api_key or address.api_key)
    return _join(load_settings())


def submit(picture: Picture, /, **parameters: Any) -> Job:
    """Hand a picture to the farm: as `Connection.submit`, which says what may be given.

    The farm is the server of FARM_URL (with FARM_API_KEY), else that of the Ray cluster this
    process is in, RAY_ADDRESS names or this machine runs, else one that is started in this
    process, and ends with it: what it was at goes on when one is started again.
    """
    return _usual().submit(picture, **parameters)


def submit_many(pictures: Iterable[Picture], /, **parameters: Any) -> list[Job]:
    """Hand many pictures to the farm that `submit` finds: as `Connection.submit_many`."""
    return _usual().submit_many(pictures, **parameters)


def _usual() -> Connection:
    """The one for all calls of `submit`, as long as the surroundings are the same."""
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
    except FarmError:  # finished just now, or the farm is gone; the first error is what is told
        return
