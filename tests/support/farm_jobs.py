"""Helpers for tests of a farm on a Ray cluster: open it, make jobs, and wait for them."""

import contextlib
import hashlib
import os
import signal
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

from farm.client.farm import Farm
from farm.client.ray_link import connect
from farm.model.job import JobView, Submission
from farm.model.request import Model
from farm.settings import load_settings
from svd_engine import Engine, RenderParams
from tests.conftest import draw_picture

SMALL = {"width": 64, "height": 48, "num_frames": 5, "num_inference_steps": 5}


def open_farm(store: str | Path, engine: str = "farm.workers.worker", **settings: Any) -> Farm:
    return connect(load_settings(store=str(store), segment_steps=2, **settings), engine)


def picture_bytes(seed: int = 0) -> bytes:
    buffer = BytesIO()
    draw_picture(90, 60, seed=seed).save(buffer, "PNG")
    return buffer.getvalue()


def submission(model: Path, **values: Any) -> Submission:
    own = {name: values.pop(name) for name in list(values) if name in Submission.model_fields}
    params = RenderParams(**{**SMALL, "decode_chunk_size": 2, **values})
    return Submission(model=Model(name=str(model)), params=params, **own)


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, f"still false after {seconds:g} s"
        time.sleep(0.05)
    return found


def finish(farm: Farm, *jobs: str) -> dict[str, JobView]:
    """Wait until jobs have ended; returns their final states by id."""
    for _ in farm.watch(jobs):
        pass
    return {job: farm.show(job) for job in jobs}


def expected_sha256(model: Path, picture: bytes, view: JobView) -> list[str]:
    """The digests of the frames that `engine.render` alone makes for a job."""
    engine = Engine.from_pretrained(model)
    clips = view.job.request.clips()
    rendered = (engine.render(picture, clip.params).frames for clip in clips)
    return [hashlib.sha256(frames.tobytes()).hexdigest() for frames in rendered]


def kill(place: str) -> None:
    """Send SIGKILL to a worker. place: `address:pid`."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(place.rpartition(":")[2]), signal.SIGKILL)
