"""Ray Serve below a prefix with an S3 store: the README's curl, and OpenAI's client."""

import subprocess
import warnings
from pathlib import Path

import httpx2
import openai
import pytest

from tests.support.farm_jobs import picture_bytes
from tests.support.ingress_server import serving
from tests.support.ray_cluster import local_cluster
from tests.support.s3_server import s3_environment, s3_server

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_curl_and_openais_client_get_whole_files(tmp_path: Path) -> None:
    with (
        s3_server(tmp_path / "s3") as server,
        s3_environment(server),
        local_cluster(),  # a new one: its processes inherit the credentials
        serving(server.url, "/farm/here") as url,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", DeprecationWarning)  # OpenAI closed its own server
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
        video = client.videos.create_and_poll(
            prompt="",
            model="tiny",
            input_reference=("my cat.png", picture_bytes(), "image/png"),
            extra_body={"width": 64, "height": 48, "num_frames": 2, "steps": 2, "seed": 7},
        )
        whole = client.videos.download_content(video.id).content
        assert client.models.retrieve("tiny").id == "tiny"
        curl = [
            "curl",
            "-sS",
            "-o",
            str(tmp_path / "clip.mp4"),
            f"{url}/v1/videos/{video.id}/content",
        ]
        subprocess.run(curl, check=True)
        assert (tmp_path / "clip.mp4").read_bytes() == whole
        assert whole[4:8] == b"ftyp"
        head = httpx2.head(f"{url}/v1/videos/{video.id}/content")
        assert int(head.headers["content-length"]) == len(whole)
        assert "my%20cat-seed7.mp4" in head.headers["content-disposition"]
        none = httpx2.get(f"{url}/v2beta/image-to-video/result/{'0' * 64}")
        assert (none.status_code, set(none.json())) == (404, {"id", "name", "errors"})
        assert (
            httpx2.head(f"{url}/v1/videos/{video.id}/events").headers["x-accel-buffering"] == "no"
        )
        assert httpx2.get(f"{url}/docs").status_code == 200
