"""Data URLs as clients write them, up to the largest body, in forms and in JSON."""

import asyncio
import base64
import json
import random
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, quote_from_bytes

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farm.model.job import JobRecord, Submission
from farm.model.request import digest_of
from tests.front_door import CheckingFarm
from tests.support.asgi import client, still_app
from tests.support.farm_jobs import picture_bytes

PICTURE = picture_bytes()
LIMIT = 2**20


class Keeping(CheckingFarm):
    """Keeps the digest of the picture that it is asked about."""

    got = ""
    name = ""

    async def check(self, submission: Submission, digest: str) -> tuple[JobRecord, int]:
        self.got, self.name = digest, submission.picture_name
        return await super().check(submission, digest)


def long(size: int) -> bytes:
    """A picture with as much behind it, which nobody minds."""
    return PICTURE + random.Random(size).randbytes(size)


def wrapped(text: str, end: str = "\r\n") -> str:
    return end.join(text[start : start + 76] for start in range(0, len(text), 76))


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


URLS: dict[str, Callable[[bytes], str]] = {
    "plain": lambda d: f"data:image/png;base64,{b64(d)}",
    "wrapped": lambda d: f"data:image/png;base64,{wrapped(b64(d))}",
    "wrapped by LF, and once more at its end": lambda d: (
        f"data:image/png;base64,\n{wrapped(b64(d), chr(10))}\n"
    ),
    "unpadded": lambda d: f"data:image/png;base64,{b64(d).rstrip('=')}",
    "url-safe": lambda d: f"data:image/png;base64,{base64.urlsafe_b64encode(d).decode()}",
    "url-safe and unpadded": lambda d: (
        f"data:image/png;base64,{base64.urlsafe_b64encode(d).decode().rstrip('=')}"
    ),
    "in capitals": lambda d: f"DATA:IMAGE/PNG;BASE64,{b64(d)}",
    "in mixed letters": lambda d: f"Data:image/PNG;Base64,{b64(d)}",
    "with a charset": lambda d: f"data:image/png;charset=utf-8;base64,{b64(d)}",
    "with other parameters": lambda d: f"data:image/png;name=a.png;x=y;base64,{b64(d)}",
    "with spaces in its head": lambda d: f"data:image/png; charset=utf-8; base64,{b64(d)}",
    "without a type": lambda d: f"data:;base64,{b64(d)}",
    "of bytes": lambda d: f"data:application/octet-stream;base64,{b64(d)}",
    "of an escaped base64": lambda d: f"data:image/png;base64,{quote(b64(d), safe='')}",
    "of escaped bytes": lambda d: f"data:image/png,{quote_from_bytes(d, safe='')}",
}


def ask(farm: Keeping, **request: Any) -> httpx2.Response:
    async def asked() -> httpx2.Response:
        async with client(still_app(farm, max_body=LIMIT)) as http:
            return await http.post("/v1/videos/check", **request)

    return asyncio.run(asked())


def multipart(fields: dict[str, str]) -> Any:
    return {name: (None, value) for name, value in fields.items()}


def doors(url: str) -> dict[str, dict[str, Any]]:
    """Ways to send it."""
    php = json.dumps({"input_reference": url}).replace("/", "\\/")
    dotnet = json.dumps({"input_reference": url}).replace("+", "\\u002B").replace("=", "\\u003D")
    kind = {"Content-Type": "application/json"}
    return {
        "form": {"files": multipart({"input_reference": url})},
        "form, nested": {"files": multipart({"input_reference[image_url]": url})},
        "form, JSON": {"files": multipart({"image_reference": json.dumps({"image_url": url})})},
        "form, image_reference": {"files": multipart({"image_reference[image_url]": url})},
        "JSON": {"json": {"input_reference": url}},
        "JSON, nested": {"json": {"input_reference": {"image_url": url}}},
        "JSON in JSON": {"json": {"image_reference": json.dumps({"image_url": url})}},
        "JSON of PHP": {"content": php, "headers": kind},
        "JSON of .NET": {"content": dotnet, "headers": kind},
    }


@pytest.mark.parametrize("kind", URLS)
@pytest.mark.parametrize("size", [0, 150_001])
def test_every_spelling_gives_the_picture(kind: str, size: int) -> None:
    picture = long(size)
    for door, request in doors(URLS[kind](picture)).items():
        farm = Keeping()
        answer = ask(farm, **request)
        assert answer.status_code == 200, (door, answer.text)
        assert farm.got == digest_of(picture), door


def test_a_form_field_may_be_as_long_as_a_body(tmp_path: Any) -> None:
    picture = long(LIMIT * 3 // 4 - 1000 - len(PICTURE))
    farm = Keeping()
    answer = ask(farm, files=multipart({"input_reference": URLS["plain"](picture)}))
    assert (answer.status_code, farm.got) == (200, digest_of(picture)), answer.text
    answer = ask(farm, files=multipart({"input_reference": URLS["plain"](long(LIMIT))}))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    answer = ask(farm, files=multipart({"prompt": "x" * 70_000}))
    assert (answer.status_code, answer.json()["error"]["param"]) == (413, "prompt")


@given(
    data=st.binary(min_size=1, max_size=300),
    kind=st.sampled_from(sorted(URLS)),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_bytes_come_through_wherever_pieces_are_cut(data: bytes, kind: str, seed: int) -> None:
    from farm.ingress.bodies import data_url

    base64_, text = data_url.split_data_url(URLS[kind](data))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_url, "PIECE", random.Random(seed).randint(1, 50))
        assert data_url.decode(text.encode(), base64_) == data
        assert data_url.decode(memoryview(text.encode()), base64_) == data


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("data:image/png;base64,A", "not base64"),
        ("data:image/png;base64,AAA=AAAA", "not base64"),
        ("data:image/png;base64,A===", "not base64"),
        ("data:image/png;base64,AAA!", "not base64"),
        ("data:image/png;base64,\u00e9AAA", "not base64"),
        ("data:image/png;base64", "give a file, or a data URL as in data:image/png;base64,"),
        ("image/png;base64,AAAA", "give a file, or a data URL"),
        ("nonsense", "give a file, or a data URL"),
        ("data:image/png;base64,AAAA", "not a picture"),
        ("data:,AAAA", "not a picture"),
    ],
)
def test_what_is_none_is_told_by_its_field(url: str, words: str) -> None:
    for door, request in doors(url).items():
        answer = ask(Keeping(), **request)
        error = answer.json()["error"]
        assert (answer.status_code, words in error["message"]) == (400, True), (door, error)
        assert "input_reference" in error["param"] or "image" in error["param"]


def test_a_files_name_comes_with_it() -> None:
    farm = Keeping()
    files = {"input_reference": ("../My cat.png", PICTURE, "image/png")}
    assert ask(farm, files=files).status_code == 200
    assert farm.name == "My cat"
