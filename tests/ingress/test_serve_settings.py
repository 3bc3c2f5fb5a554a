"""A `farm.toml` in the working directory of `serve run` holds in processes that have another."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from ray import serve

from farm.ingress.serve_app import app
from tests.support.farm_jobs import picture_bytes, wait_for
from tests.support.ingress_server import start_serve

FILE = """
store = "jobs"
models = ["tiny"]
max_body = 20000
workers = 2
max_work = 1000
"""


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("there")


@pytest.fixture(scope="module")
def http(there: Path, ray_cluster: None) -> Iterator[httpx2.Client]:
    (there / "farm.toml").write_text(FILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(there)
        for name in ("FARM_STORE", "FARM_MODELS"):
            patch.delenv(name, raising=False)
        port = start_serve()
        try:
            serve.run(app({}), name="configured", route_prefix="/")
            patch.chdir("/")  # nor does this process find it any more
            with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                yield client
        finally:
            serve.delete("configured")


def test_replicas_coordinator_and_workers_have_it(there: Path, http: httpx2.Client) -> None:
    assert [model["id"] for model in http.get("/v1/models").json()["data"]] == ["tiny"]
    assert http.post("/v1/videos", content=b"x" * 30000).status_code == 413
    assert wait_for(lambda: _renderers(http) == 2)
    assert (there / "jobs/store.json").exists()
    picture = {"input_reference": ("a.png", picture_bytes())}
    refused = http.post("/v1/videos", files=picture, data={"width": "64", "height": "64"})
    assert refused.status_code == 400  # by the coordinator
    assert "1,000 (FARM_MAX_WORK)" in refused.text


def _renderers(http: httpx2.Client) -> int:
    workers = http.get("/v1/farm").json()["workers"]
    return sum(name.startswith("renderer") for name in workers)
