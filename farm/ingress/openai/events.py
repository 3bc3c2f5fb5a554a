"""A job's event log as server-sent events, previews with their images."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Sequence

import anyio.to_thread
from fastapi.sse import ServerSentEvent

from farm.errors import FarmError, StoreError
from farm.model.farm_api import FarmApi
from farm.model.job import JobView, LogEntry
from farm.store.keys import preview_key

LOOK_S = 2.0  # between two looks whether a reader is still allowed to read


async def event_stream(
    farm: FarmApi, job: str, after: int, allowed: Callable[[], bool]
) -> AsyncIterator[ServerSentEvent]:
    """Every entry after number `after`, once and in order, until the job has ended.

    Should the farm be away, the stream ends: clients come again with the last id they saw. It ends,
    too, once its reader is no more allowed to read.
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
                yield ServerSentEvent(comment="still there")
    except FarmError as error:
        yield ServerSentEvent(comment=" ".join(str(error).split()))


async def _news(
    farm: FarmApi, job: str, version: int, allowed: Callable[[], bool]
) -> tuple[int, list[JobView]] | None:
    """What `watch` says; None once it may not be told."""
    asked = asyncio.ensure_future(farm.watch([job], version))
    try:
        while allowed():
            await asyncio.wait({asked}, timeout=LOOK_S)
            if asked.done():
                return asked.result() if allowed() else None
        return None
    finally:
        asked.cancel()


async def _last_preview(farm: FarmApi, entries: Sequence[LogEntry]) -> dict[int, str]:
    """The image of the last preview that is told of, by its entry's number; the store has no other.

    There is none once its clip has ended.
    """
    told = [entry for entry in entries if entry.event == "preview"]
    if not told:
        return {}
    try:
        store = await farm.store()
        stored = await anyio.to_thread.run_sync(store.get, preview_key(told[-1].data["clip"]))
    except StoreError:
        return {}  # the events are worth more
    if stored is None:
        return {}
    return {told[-1].seq: f"data:image/webp;base64,{b64encode(stored.data).decode()}"}


def _event(entry: LogEntry, image: str | None) -> ServerSentEvent:
    data = {"at": entry.at, **entry.data} | ({"image": image} if image else {})
    return ServerSentEvent(id=str(entry.seq), event=entry.event, data=data)
