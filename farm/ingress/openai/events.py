"""A job's event log as server-sent events; previews carry their image.

FastAPI frames the events, but its EventSourceResponse is not used. It turns an error in a stream
into an ExceptionGroup, runs two tasks and two queues for each reader, sets Cache-Control itself,
and begins its answer before the route's own checks, which would have to become dependencies.
"""

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Sequence

import anyio.to_thread
from fastapi.sse import format_sse_event

from farm.errors import FarmError, StoreError
from farm.model.farm_api import FarmApi
from farm.model.job import JobView, LogEntry
from farm.store.keys import preview_key

LOOK_S = 2.0  # between two checks of the reader's key


async def event_stream(
    farm: FarmApi, job: str, after: int, allowed: Callable[[], bool]
) -> AsyncIterator[bytes]:
    """Every entry after number `after`, once and in order, until the job has ended.

    The stream also ends when the farm cannot be reached, and clients then reconnect with the last
    id they saw; and when `allowed` says that the reader's key was revoked.
    """
    version = -1
    try:
        while (news := await _news(farm, job, version, allowed)) is not None:
            version, changed = news
            entries = await farm.events(job, after)
            images = await _last_preview(farm, entries)
            for entry in entries:
                after = entry.seq
                yield _event(entry, images.get(entry.seq))
            if changed and not changed[0].job.state.is_open:
                return
            if not entries:
                yield format_sse_event(comment="still there")
    except FarmError as error:
        yield format_sse_event(comment=" ".join(str(error).split()))


async def _news(
    farm: FarmApi, job: str, version: int, allowed: Callable[[], bool]
) -> tuple[int, list[JobView]] | None:
    """The job's changes after a version, from `Farm.watch`; None once the key was revoked."""
    news = asyncio.ensure_future(farm.watch([job], version))
    try:
        while allowed():
            await asyncio.wait({news}, timeout=LOOK_S)
            if news.done():
                return news.result() if allowed() else None
        return None
    finally:
        news.cancel()


async def _last_preview(farm: FarmApi, entries: Sequence[LogEntry]) -> dict[int, str]:
    """The image of the last preview among the entries, by the number of its entry.

    The store keeps only a clip's latest preview, and deletes it when the clip has ended.
    """
    previews = [entry for entry in entries if entry.event == "preview"]
    if not previews:
        return {}
    last = previews[-1]
    try:
        store = await farm.store()
        stored = await anyio.to_thread.run_sync(store.get, preview_key(last.data["clip"]))
    except StoreError:
        return {}  # events matter more than their images
    if stored is None:
        return {}
    return {last.seq: f"data:image/webp;base64,{b64encode(stored.data).decode()}"}


def _event(entry: LogEntry, image: str | None) -> bytes:
    data = json.dumps({"at": entry.at, **entry.data} | ({"image": image} if image else {}))
    return format_sse_event(id=str(entry.seq), event=entry.event, data_str=data)
