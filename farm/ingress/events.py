"""A job's event log as server-sent events."""

import json
from collections.abc import AsyncIterator

from farm.errors import FarmError
from farm.ingress.protocol import Farm
from farm.job import LogEntry


async def event_stream(farm: Farm, job: str, after: int) -> AsyncIterator[str]:
    """Every entry after number `after`, once and in order, until the job has ended.

    Should the farm be away, the stream ends: clients come again with the last id they saw.
    """
    version = -1
    try:
        while True:
            version, changed = await farm.watch([job], version)
            entries = await farm.events(job, after)
            for entry in entries:
                after = entry.seq
                yield _event(entry)
            if changed and not changed[0].job.state.is_open:
                return
            if not entries:
                yield ": still there\n\n"
    except FarmError as error:
        yield f": {' '.join(str(error).split())}\n\n"


def _event(entry: LogEntry) -> str:
    data = json.dumps({"at": entry.at, **entry.data})
    return f"id: {entry.seq}\nevent: {entry.event}\ndata: {data}\n\n"
