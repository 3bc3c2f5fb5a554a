"""A farm whose jobs are completed, with their files in a store, for tests of results."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from farm.model.job import ClipResult, JobRecord, JobView, Progress, State
from farm.model.request import Model, RenderRequest
from farm.store import Store, open_store
from farm.store.keys import artifact_keys
from tests.support.asgi import KEYS, PARAMS, StillFarm

DIGEST = "a" * 64
VIDEO = bytes(range(256)) * 20
FILES = {"video": VIDEO, "thumbnail": b"\xff\xd8 a thumbnail", "spritesheet": b"\xff\xd8 sprites"}
NOW = 1_700_000_000.5


class DoneFarm(StillFarm):
    """Each tenant's job is completed, with one clip of seed 7. changes: fields of the records."""

    def __init__(self, store: Store | Path, **changes: Any) -> None:
        super().__init__()
        self._store = open_store(str(store)) if isinstance(store, Path) else store
        self._changes = changes
        for key, data in zip(artifact_keys(DIGEST, "1-1"), FILES.values(), strict=True):
            self._store.put(key, data)

    async def store(self) -> Store:
        return self._store

    async def watch(self, jobs: Sequence[str], after: int) -> tuple[int, list[JobView]]:
        views = [await self.find(job) for job in jobs]
        return 1, [view for view in views if view is not None]

    async def find(self, job: str) -> JobView | None:
        if job not in KEYS.values():
            return None
        request = RenderRequest(
            picture=DIGEST,
            weights=DIGEST,
            dtype="float32",
            params=PARAMS.model_copy(update={"seed": 7}),
        )
        video, thumbnail, sprites = artifact_keys(DIGEST, "1-1")
        result = ClipResult(
            request=request,
            sha256=DIGEST,
            video=video,
            thumbnail=thumbnail,
            sprite_sheet=sprites,
            seconds={},
            gpu_seconds=1.0,
            attempts=1,
            worker="w",
            fence=1,
            finished_at=NOW,
        )
        record = JobRecord(
            id=job,
            tenant=job,
            model=Model(),
            request=request,
            created_at=1.0,
            state=State.COMPLETED,
            finished_at=NOW,
            results=(result,),
        )
        record = record.model_copy(update=self._changes)
        return JobView(job=record, progress=Progress(steps=1, step=1, chunk=1, chunks=1))
