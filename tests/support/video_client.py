"""Small videos over HTTP: made, and waited for."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import openai

from tests.support.farm_jobs import picture_bytes, wait_for

PICTURE = ("a.png", picture_bytes(), "image/png")
SMALL = {"size": "64x48", "num_frames": "5", "steps": "5", "model": "tiny"}


@contextmanager
def openai_client(http: httpx2.Client) -> Iterator[openai.OpenAI]:
    """OpenAI's client of the same server."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # OpenAI closed its own server
        yield openai.OpenAI(base_url=http.base_url.join("/v1"), api_key="none", max_retries=0)


def create(http: httpx2.Client, picture: Any = PICTURE, headers: Any = None, **fields: Any) -> Any:
    """The answer to a request for a video."""
    form = {**SMALL, **{name: str(value) for name, value in fields.items()}}
    files = {"input_reference": picture} if picture else None
    return http.post("/v1/videos", data=form, files=files, headers=headers)


def finished(http: httpx2.Client, video: str) -> dict[str, Any]:
    """A video, once it is completed or has failed."""

    def look() -> Any:
        found = http.get(f"/v1/videos/{video}").json()
        return found if found["status"] in ("completed", "failed") else None

    return wait_for(look, 120)
