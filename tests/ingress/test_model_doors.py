"""Wrong models are reported over HTTP as everywhere, after a check by the coordinator."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

import farm.workers.cluster
from farm.errors import RequestError
from farm.ingress.app import make_app
from farm.model.request import Model, ModelFacts
from farm.workers.cluster import Models
from tests.engine.test_recognize import FILES
from tests.support.asgi import client, settings_of
from tests.support.farm_jobs import picture_bytes
from tests.support.inline_farm import coordinator, inline

__all__ = ["inline"]


async def describe_here(model: Model, _limit_s: float) -> ModelFacts:
    """What a process of the cluster does, in this one."""
    try:
        return await asyncio.to_thread(farm.workers.cluster._describe, model)
    except ValueError as error:
        raise RequestError(str(error)) from error


@pytest.mark.parametrize("kind", ["sgm", "lora, kohya", "lcm", "gguf", "ckpt, zip", "cogvideox"])
def test_over_http(kind: str, tmp_path: Path, inline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(farm.workers.cluster, "describe_model", describe_here)
    (tmp_path / "models").mkdir()
    make, words = FILES[kind]
    name = str(make(tmp_path / "models"))

    async def work() -> None:
        async with coordinator(tmp_path / "store", finder=Models) as running:
            app = make_app(running, settings_of(models=("nano", name)))
            async with client(app) as http:
                files = {"input_reference": ("a.png", picture_bytes())}
                for path in ("/v1/videos", "/v1/videos/check"):
                    answer = await http.post(path, files=files, data={"model": name})
                    assert answer.status_code == 400, answer.text
                    error = answer.json()["error"]
                    assert error["param"] == "model"
                    assert re.search(words, error["message"]), error
                answer = await http.post("/v1/videos", files=files, data={"model": "nanoo"})
                assert "Did you mean 'nano'?" in answer.json()["error"]["message"]

    asyncio.run(work())
