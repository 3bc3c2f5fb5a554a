"""The picture of a video over HTTP, and the video as an animated image."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from farm.store.keys import picture_key
from svd_engine.video import encode_video
from tests.ingress.test_content import PATH, asked
from tests.support.asgi import PARAMS, bearer, still_app
from tests.support.done_farm import DIGEST, FILES, DoneFarm
from tests.support.farm_jobs import picture_bytes

PICTURE = "/v1/videos/acme/picture"
FITTED = f"{PICTURE}?fitted=true"


@pytest.fixture
def farm(tmp_path: Path) -> DoneFarm:
    return DoneFarm(tmp_path, picture_name="a boat")


@pytest.fixture
def app(farm: DoneFarm) -> Any:
    farm._store.put(picture_key(DIGEST), picture_bytes())
    return still_app(farm)


def test_the_picture_is_what_was_sent_and_never_a_page(app: Any) -> None:
    answer = asked(app, path=PICTURE)
    assert (answer.status_code, answer.content) == (200, picture_bytes())
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "a%20boat" in answer.headers["content-disposition"]


def test_a_fitted_picture_has_a_frames_size(app: Any) -> None:
    answer = asked(app, path=FITTED)
    with Image.open(BytesIO(answer.content)) as image:
        assert (image.format, image.size) == ("JPEG", (PARAMS.width, PARAMS.height))


@pytest.mark.parametrize("path", [PICTURE, FITTED, f"{PATH}?format=gif"])
def test_who_has_it_is_not_sent_it_again(app: Any, farm: DoneFarm, path: str) -> None:
    store_video(farm)
    tag = asked(app, path=path).headers["etag"]
    again = asked(app, {"If-None-Match": tag}, path=path)
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", [PICTURE, FITTED])
def test_it_is_the_tenants_own(app: Any, path: str) -> None:
    assert asked(app, bearer("open"), path=path).status_code == 404
    assert asked(app, bearer("unknown"), path=path).status_code == 401


def test_what_is_gone_or_broken_is_said(app: Any, farm: DoneFarm) -> None:
    whole = picture_bytes()
    farm._store.put(picture_key(DIGEST), whole[: len(whole) // 2])
    answer = asked(app, path=FITTED)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "picture_unreadable")
    assert "broken" in answer.json()["error"]["message"]
    farm._store.delete(picture_key(DIGEST))
    for path in (PICTURE, FITTED):
        answer = asked(app, path=path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "picture_expired")


def store_video(farm: DoneFarm) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 48, 3), dtype=np.uint8)
    (key,) = [k for k in farm._store.list("") if k.endswith("video.mp4")]
    farm._store.put(key, encode_video(frames, 7))


@pytest.mark.parametrize("form", ["gif", "webp"])
def test_a_video_is_converted(app: Any, farm: DoneFarm, form: str) -> None:
    store_video(farm)
    answer = asked(app, path=f"{PATH}?format={form}")
    assert answer.headers["content-type"] == f"image/{form}"
    assert answer.headers["content-disposition"].endswith(f"a%20boat-seed7.{form}")
    with Image.open(BytesIO(answer.content)) as image:
        assert (image.format, image.size) == (form.upper(), (48, 32))
        assert getattr(image, "n_frames", 1) == 5


def test_a_video_that_is_broken_is_said_and_head_does_no_work(farm: DoneFarm) -> None:
    path = f"{PATH}?format=gif"
    answer = asked(still_app(farm), path=path)  # its bytes are no video
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "video_unreadable")
    head = asked(still_app(farm), path=path, method="HEAD")
    assert (head.status_code, head.headers["content-type"]) == (200, "image/gif")


def test_only_the_video_is_converted_and_only_to_what_is_known(app: Any) -> None:
    for query, param in (("variant=thumbnail&format=gif", "format"), ("format=avi", "format")):
        answer = asked(app, path=f"{PATH}?{query}")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert set(FILES) == {"video", "thumbnail", "spritesheet"}
