"""`python -m tests.log_readers`: measure submits while many clients read a long event log.

A whole coordinator (`tests/support/inline_farm.py`) uses a folder in which each call takes 15 ms.
The log covers half an hour with one object a second, as earlier versions left it.
"""

import asyncio
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from farm.coordinator.coordinator import Coordinator
from farm.model.job import LogEntry, Submission
from farm.store.keys import events_key, events_prefix
from farm.store.local import LocalStore
from tests.support.farm_jobs import picture_bytes
from tests.support.inline_farm import coordinator, replace_video

ENTRIES = 1800
READERS = 64
SUBMITS = 20
ANSWER_S = 0.015


def answer_late(patch: pytest.MonkeyPatch) -> None:
    """Delay each call to a folder, so that it takes as long as a store in a network."""
    for name in ("get", "put", "exists", "delete"):
        patch.setattr(LocalStore, name, _late(getattr(LocalStore, name)))


def _late(call: Any) -> Any:
    def late(*arguments: Any, **named: Any) -> Any:
        time.sleep(ANSWER_S)
        return call(*arguments, **named)

    return late


def fill_log(folder: Path, job: str, entries: int) -> None:
    (folder / events_prefix(job)).mkdir(parents=True, exist_ok=True)
    for seq in range(1, entries + 1):
        line = LogEntry(seq=seq, at=0.0, event="progress").model_dump_json()
        (folder / events_key(job, seq)).write_text(line + "\n")


async def submit(farm: Coordinator, seed: int) -> float:
    """Submit a job; returns how long it took in seconds."""
    began = time.perf_counter()
    await farm.submit(Submission(id=f"s{seed}", params={"seed": seed}), picture_bytes())
    return time.perf_counter() - began


async def read_log(farm: Coordinator, job: str) -> int:
    """Read a whole log; returns the number of entries."""
    after = count = 0
    while page := await farm.events(job, after):
        after, count = page[-1].seq, count + len(page)
    return count


async def measure(
    folder: Path, readers: int, entries: int
) -> tuple[list[float], list[float], list[int]]:
    """The times of submits alone and while clients read the log, and how much each client read."""
    async with coordinator(folder, working=False) as farm:
        await farm.submit(Submission(id="read"), picture_bytes())
        await farm.cancel("read")  # so that its log no longer grows, and is not compacted
        await asyncio.to_thread(fill_log, folder, "read", entries)
        alone = [await submit(farm, seed) for seed in range(SUBMITS)]
        reading = asyncio.gather(*(read_log(farm, "read") for _ in range(readers)))
        beside = list[float]()
        while not reading.done():
            beside.append(await submit(farm, SUBMITS + len(beside)))
        return sorted(alone), sorted(beside), await reading


def main() -> None:
    logging.disable()  # silence a coordinator that is being stopped
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        replace_video(patch)
        answer_late(patch)
        began = time.perf_counter()
        alone, beside, read = asyncio.run(measure(Path(folder), READERS, ENTRIES))
        took = time.perf_counter() - began
    print(f"{READERS} readers of {min(read)} entries: {took:.0f} s")
    for what, times in (("alone", alone), ("meanwhile", beside)):
        print(f"a submit, {what}: p50 {times[len(times) // 2]:.2f} s, worst {times[-1]:.2f} s")


if __name__ == "__main__":
    main()
