"""Clips over HTTP: ranges, conditions, HEAD, file names; from a folder, and from S3 both ways."""

import asyncio
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farm.model.filenames import stem_of
from farm.model.job import Submission
from farm.store import open_store
from tests.support.asgi import client, still_app
from tests.support.done_farm import FILES, VIDEO, DoneFarm
from tests.support.s3_server import S3Server, s3_environment, s3_server

PATH = "/v1/videos/acme/content"


def asked(app: Any, *headers: dict[str, str], method: str = "GET", path: str = PATH) -> Any:
    """The answer; or the answers to several requests that differ in their headers."""

    async def ask() -> list[httpx2.Response]:
        async with client(app) as http:
            http.headers["X-Request-ID"] = "asked"  # or each answer has another
            return [await http.request(method, path, headers=h) for h in headers or ({},)]

    answers = asyncio.run(ask())
    return answers if len(headers) > 1 else answers[0]


@pytest.fixture
def app(tmp_path: Path) -> Any:
    return still_app(DoneFarm(tmp_path, picture_name="Grüße aus Köln"))


def test_whole_files_are_named_and_told_apart(app: Any) -> None:
    for variant, data in FILES.items():
        answer = asked(app, path=f"{PATH}?variant={variant}")
        assert (answer.status_code, answer.content) == (200, data)
        assert int(answer.headers["content-length"]) == len(data)
        assert answer.headers["accept-ranges"] == "bytes"
        kind, _, name = answer.headers["content-disposition"].partition("; filename*=utf-8''")
        ending = {"video": ".mp4", "thumbnail": "-thumbnail.jpg", "spritesheet": "-spritesheet.jpg"}
        assert (kind, unquote(name)) == ("inline", f"Grüße aus Köln-seed7{ending[variant]}")
    tags = {asked(app, path=f"{PATH}?variant={v}").headers["etag"] for v in FILES}
    assert len(tags) == 3
    assert not [*Path(tempfile.gettempdir()).glob("farm-answer-*")]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(0, len(VIDEO) - 1), st.none() | st.integers(0, 2 * len(VIDEO))),
            st.tuples(st.none(), st.integers(1, 2 * len(VIDEO))),
        ).filter(lambda pair: pair[0] is None or pair[1] is None or pair[0] <= pair[1]),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_any_ranges_give_their_bytes(pairs: list[tuple[int | None, int | None]]) -> None:
    def written(end: int | None) -> str:
        return "" if end is None else str(end)

    header = "bytes=" + ", ".join(f"{written(a)}-{written(b)}" for a, b in pairs)
    wanted = set[int]()
    for first, last in pairs:
        start = len(VIDEO) - (last or 0) if first is None else first
        stop = len(VIDEO) if first is None or last is None else last + 1
        wanted |= set(range(max(0, start), min(stop, len(VIDEO))))
    with tempfile.TemporaryDirectory() as folder:
        app = still_app(DoneFarm(Path(folder)))
        answer = asked(app, {"Range": header})
        head = asked(app, {"Range": header}, method="HEAD")
    assert answer.status_code == head.status_code == 206
    assert int(answer.headers["content-length"]) == len(answer.content)
    found = set[int]()
    for place, data in parts_of(answer):
        start, stop, size = map(int, re.findall(r"\d+", place))
        assert (size, data) == (len(VIDEO), VIDEO[start : stop + 1])
        found |= set(range(start, stop + 1))
    assert found == wanted


def parts_of(answer: httpx2.Response) -> list[tuple[str, bytes]]:
    """Each part's Content-Range, and its bytes."""
    kind, _, boundary = answer.headers["content-type"].partition("; boundary=")
    if kind != "multipart/byteranges":
        return [(answer.headers["content-range"], answer.content)]
    parts = []
    for part in answer.content.split(f"--{boundary}".encode())[1:-1]:
        head, _, data = part.partition(b"\r\n\r\n")
        found = re.search(rb"content-range: (.*)", head, re.IGNORECASE)
        assert found
        parts.append((found[1].decode(), data.removesuffix(b"\r\n")))
    return parts


def test_a_range_that_is_none_is_ignored_and_one_beyond_the_end_is_refused(app: Any) -> None:
    ranges = ("bytes", "bytes=", "bytes=5-3", "bytes=a-b", "lines=1-2", "bytes=-", "0-3")
    for answer in asked(app, *({"Range": each} for each in ranges)):
        assert (answer.status_code, answer.content) == (200, VIDEO)
    for answer in asked(app, {"Range": f"bytes={len(VIDEO)}-"}, {"Range": "bytes=-0"}):
        assert (answer.status_code, answer.headers["content-range"]) == (
            416,
            f"bytes */{len(VIDEO)}",
        )
        assert answer.json()["error"]["code"] == "range_not_satisfiable"


def test_conditions_are_kept(app: Any) -> None:
    whole = asked(app)
    tag, date = whole.headers["etag"], whole.headers["last-modified"]
    part = {"Range": "bytes=0-3"}
    same = ({"If-None-Match": each} for each in (tag, f"W/{tag}", f'"x", {tag}', "*"))
    for answer in asked(app, *same, {"If-Modified-Since": date}, {**part, "If-None-Match": tag}):
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == tag
    for answer in asked(app, {"If-None-Match": '"x"'}, {"If-None-Match": '"x"', **part}):
        assert answer.status_code in (200, 206)
    for fresh in (tag, date):
        assert asked(app, {**part, "If-Range": fresh}).content == VIDEO[:4]
    for stale in ('"x"', f"W/{tag}", "Tue, 14 Nov 2000 22:13:20 GMT", "nonsense"):
        answer = asked(app, {**part, "If-Range": stale})
        assert (answer.status_code, answer.content) == (200, VIDEO)


PATHS = (
    *("/", "/page/app.js", "/page/nothing", "/docs", "/openapi.json", "/healthz", "/readyz"),
    *("/v1/videos", "/v1/videos/acme", "/v1/videos/other", PATH, f"{PATH}?variant=thumbnail"),
    *("/v1/videos/acme/events", "/v1/models", "/v1/models/nano", "/v1/models/a/b", "/v1/farm"),
    *("/v2beta/image-to-video/result/" + "0" * 64, "/v1/videos/acme/cancel", "/nowhere"),
    "/v2beta/image-to-video/result/" + b"acme".hex().ljust(64, "0"),
)


@pytest.mark.parametrize("path", PATHS)
def test_head_is_get_without_a_body(app: Any, path: str) -> None:
    get, head = asked(app, path=path), asked(app, path=path, method="HEAD")
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert dict(head.headers) == dict(get.headers)


def test_head_of_an_event_stream_does_not_wait_for_the_job() -> None:
    app = still_app()  # whose job never ends
    answer = asked(app, path="/v1/videos/acme/events", method="HEAD")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["cache-control"] == "no-cache, no-transform"


def test_a_file_that_is_gone_is_told_of(app: Any, tmp_path: Path) -> None:
    for file in tmp_path.rglob("video.mp4"):
        file.unlink()
    answer = asked(app)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "video_expired")


@given(st.text(max_size=200))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_any_picture_name_gives_a_header_and_a_file_name(name: str) -> None:
    stem = Submission(picture_name=name).picture_name
    assert stem == stem_of(stem) or "." in stem
    assert not set(stem) & set('/\\<>:"|?*%\r\n\0\u202e')
    assert not stem.startswith((".", " "))
    with tempfile.TemporaryDirectory() as folder:
        answer = asked(still_app(DoneFarm(Path(folder), picture_name=stem)), method="HEAD")
    header = answer.headers["content-disposition"]
    header.encode("latin-1")
    assert unquote(header).endswith(("-seed7.mp4", '-seed7.mp4"'))


@pytest.mark.parametrize(
    ("given", "stem"),
    [
        ("cat.jpg", "cat"),
        ("C:\\photos\\my cat.PNG", "my cat"),
        ("../../etc/passwd", "passwd"),
        ("holiday.2024.jpeg", "holiday.2024"),
        ("cat.v2", "cat.v2"),
        ("a\u202egpj.exe", "agpj.exe"),
        ("...", ""),
        ("Cafe\u0301.jpg", "Caf\u00e9"),
    ],
)
def test_names_of_pictures(given: str, stem: str) -> None:
    assert stem_of(given) == stem


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3") / "s3") as server, s3_environment(server):
        yield server


def test_clips_of_an_s3_store_pass_through_the_door(s3: S3Server) -> None:
    app = still_app(DoneFarm(open_store(s3.url), picture_name="cat"))
    get, part = asked(app, {}, {"Range": "bytes=4-7"})
    assert (get.status_code, get.content) == (200, VIDEO)
    assert (part.status_code, part.content) == (206, VIDEO[4:8])
    assert get.headers["content-disposition"] == 'inline; filename="cat-seed7.mp4"'
    head = asked(app, method="HEAD")
    assert dict(head.headers) == dict(get.headers)


def test_clips_of_an_s3_store_are_where_clients_reach_it(s3: S3Server) -> None:
    """Its name for clients is another than the farm's, and a signature is of the name."""
    public = f"http://localhost:{s3.port}"
    farm = DoneFarm(open_store(s3.url), picture_name="Grüße")
    app = still_app(farm, s3_public_endpoint=public)
    answer = asked(app)
    assert (answer.status_code, answer.headers["cache-control"]) == (302, "no-store")
    assert "curl -L" in answer.text
    where = urlsplit(answer.headers["location"])
    assert f"{where.scheme}://{where.netloc}" == public
    with httpx2.Client(trust_env=False) as http:
        got = http.get(answer.headers["location"])
    assert (got.status_code, got.content) == (200, VIDEO)
    assert (
        got.headers["content-disposition"] == "inline; filename*=utf-8''Gr%C3%BC%C3%9Fe-seed7.mp4"
    )
    head = asked(app, method="HEAD")
    assert (head.status_code, int(head.headers["content-length"])) == (200, len(VIDEO))
    policy = asked(app, path="/").headers["content-security-policy"]
    assert f"media-src 'self' blob: data: {public};" in policy
    assert public not in asked(still_app(farm), path="/").headers["content-security-policy"]
