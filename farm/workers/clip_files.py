"""A worker's reads and writes of a clip's files in the store."""

import hashlib
import logging
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context

import numpy as np

from farm.errors import MissingError, RequestError, StoreError, UnreadableError
from farm.model.request import RenderRequest, digest_of
from farm.model.task_order import Made, Order
from farm.store import Store
from farm.store.keys import artifact_keys, checkpoint_key, picture_key
from farm.store.quarantine import move_aside
from farm.workers.engines import Latents
from svd_engine import video

log = logging.getLogger("farm")


class ClipFiles:
    """Reads pictures and checkpoints, and writes checkpoints and artifacts.

    A checkpoint is written in the background, one at a time, while the next task runs.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._writer = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def picture(self, digest: str) -> bytes:
        """A picture's bytes. Raises RequestError if they are gone or damaged."""
        stored = self._store.get(picture_key(digest))
        if stored is None:
            log.error("%s is gone", self._store.where(picture_key(digest)))
            raise RequestError("the picture is gone from the farm's store: send it again")
        if digest_of(stored.data) != digest:
            reason = "its bytes do not match the digest in its name"
            move_aside(self._store, picture_key(digest), stored.data, reason)
            raise RequestError("the picture in the farm's store was damaged: send it again")
        return stored.data

    def checkpoint(self, request: RenderRequest, step: int) -> Latents:
        """A clip's latents after `step` steps. Raises MissingError if they cannot be read."""
        key = checkpoint_key(request.digest, step)
        stored = self._store.get(key)
        if stored is None:
            raise MissingError(f"{self._store.where(key)} is gone", reason="a checkpoint is gone")
        try:
            return Latents.from_bytes(stored.data, request.digest, step)
        except UnreadableError as error:
            place = move_aside(self._store, key, stored.data, str(error))
            message = f"a checkpoint cannot be read, and is now {place}"
            raise MissingError(message, reason="a checkpoint cannot be read") from error

    def save_checkpoint(self, request: RenderRequest, latents: Latents, former: int) -> None:
        """Write a checkpoint in the background; it replaces the one of step `former`."""
        self.finish_writing()
        self._writing = self._writer.submit(
            copy_context().run, self._write, request.digest, latents, former
        )

    def finish_writing(self) -> None:
        """Wait until the checkpoint that is being written, if any, is in the store."""
        if self._writing is not None:
            self._writing.result()

    def save_artifacts(self, order: Order, frames: video.Frames) -> Made:
        """Write the clip's video and pictures, under keys of this attempt."""
        files = (
            video.encode_video(frames, order.request.params.fps),
            video.thumbnail(frames),
            video.sprite_sheet(frames),
        )
        keys = artifact_keys(order.request.digest, order.attempt)
        for key, data in zip(keys, files, strict=True):
            self._store.put(key, data)
        sha256 = hashlib.sha256(np.ascontiguousarray(frames).data).hexdigest()
        return Made(sha256, sum(map(len, files)), *keys)

    def _write(self, clip: str, latents: Latents, former: int) -> None:
        try:
            self._store.put(checkpoint_key(clip, latents.step), latents.to_bytes(clip))
            if former:
                self._store.delete(checkpoint_key(clip, former))
        except StoreError as error:  # without a checkpoint, lost work is computed again
            log.warning("no checkpoint at step %d: %s", latents.step, error)
