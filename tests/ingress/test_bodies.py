"""Bodies that are made to cost much: each is refused by name, and nobody else waits for it."""

import asyncio
import base64
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farm.ingress.bodies.body import _data_url, _parse_reference
from farm.ingress.bodies.json_body import MAX_JSON, parse_json
from farm.ingress.errors import ApiError
from tests.support.asgi import client, still_app

MB = 60 * 2**20  # of the 64 that a body may have
STALLED_S = 2.0  # for which nobody else is served; it was up to 25 s
JSON, FORM = "application/json", "multipart/form-data; boundary=cut"
PATHS = ("/v1/videos", "/v1/videos/check", "/v2beta/image-to-video")


def filled(head: bytes, part: bytes, end: bytes) -> bytes:
    return head + part * (MB // len(part)) + end


def field(name: str, value: bytes, file: str = "") -> bytes:
    what = f'--cut\r\nContent-Disposition: form-data; name="{name}"' + file
    return what.encode() + b"\r\n\r\n" + value + b"\r\n"


FILE = '; filename="a.png"'
LAST = b"--cut--\r\n"
HOSTILE: dict[str, Callable[[], tuple[str, bytes]]] = {
    "small objects": lambda: (JSON, filled(b'{"a": [', b'{"b":1},', b"1]}")),
    "numbers": lambda: (JSON, filled(b'{"sigmas": [', b"1,", b"1]}")),
    "one number": lambda: (JSON, filled(b'{"seed": ', b"9", b"}")),
    "names": lambda: (JSON, filled(b"{", b'"a":1,', b'"b":1}')),
    "brackets": lambda: (JSON, b"[" * MB),
    "braces": lambda: (JSON, b'{"a":' * (MB // 5)),
    "escapes": lambda: (JSON, filled(b'{"prompt": "', b"\\u00e9", b'"}')),
    "one text": lambda: (JSON, filled(b'{"prompt": "', b"x", b'"}')),
    "marks": lambda: (JSON, filled(b'{"prompt": "', b";base64,", b'"}')),
    "marks and quotes": lambda: (JSON, filled(b"{", b'"data:image/png;base64,":1,', b'"b":1}')),
    "marks and backslashes": lambda: (JSON, filled(b'{"a": "', b";base64,\\u", b'"}')),
    "payloads": lambda: (JSON, filled(b"[", b'"data:;base64,' + b"A" * 5000 + b'",', b"1]")),
    "one payload": lambda: (
        JSON,
        filled(b'{"input_reference": "data:image/png;base64,', b"AAAA", b'"}'),
    ),
    "a payload of no base64": lambda: (
        JSON,
        filled(b'{"input_reference": "data:image/png;base64,', b"A===", b'"}'),
    ),
    "no end": lambda: (JSON, filled(b'{"input_reference": "data:image/png;base64,', b"AAAA", b"")),
    "UTF-16": lambda: (JSON, ("[" + "1," * (MB // 4) + "1]").encode("utf-16")),
    "fields": lambda: (FORM, field("a", b"1") * (MB // 52) + LAST),
    "a field": lambda: (FORM, field("prompt", b"x" * MB) + LAST),
    "full fields": lambda: (FORM, b"".join(field(f"a{n}", b"x" * 65_000) for n in range(190))),
    "headers": lambda: (FORM, b"--cut\r\n" + b"A: b\r\n" * (MB // 6) + LAST),
    "boundaries, almost": lambda: (
        FORM,
        field("input_reference", b"\r\n--cut\r" * (MB // 9), FILE) + LAST,
    ),
    "line ends": lambda: (FORM, field("input_reference", b"\r\n" * (MB // 2), FILE) + LAST),
    "files": lambda: (FORM, field("input_reference", b"x", FILE) * (MB // 74) + LAST),
    "no boundary": lambda: (FORM, b"x" * MB),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_costly_body_is_refused_and_nobody_waits(name: str) -> None:
    kind, body = HOSTILE[name]()
    path = PATHS[len(name) % 3]

    async def test() -> float:
        longest, done = 0.0, False

        async def beat() -> None:
            nonlocal longest
            while not done:
                before = time.monotonic()
                await asyncio.sleep(0.01)
                longest = max(longest, time.monotonic() - before)

        beating = asyncio.create_task(beat())
        async with client(still_app()) as http:
            answer = await http.post(path, content=body, headers={"Content-Type": kind})
        done = True
        await beating
        assert answer.status_code in (400, 413, 422), answer.text
        assert len(answer.content) < 4096
        assert answer.json().keys() in ({"error"}, {"id", "name", "errors"})
        return longest

    assert asyncio.run(asyncio.wait_for(test(), 60)) < STALLED_S


@pytest.mark.parametrize(
    ("text", "param", "status"),
    [
        ('{"fps": NaN}', "fps", 400),
        ('{"fps": Infinity}', "fps", 400),
        ('{"sigmas": [1, {"a": [-Infinity]}]}', "sigmas", 400),
        ('{"seed": 1e999}', "seed", 400),
        ('{"prompt": 1e999}', "prompt", 400),
        ('{"seed": ' + "9" * 5000 + "}", "seed", 400),
        ('{"seed": -' + "9" * 100_000 + "}", "seed", 400),
        ('{"fps": 7, "fps": 7}', "fps", 400),
        ('{"input_reference": {"image_url": "a", "image_url": "b"}}', "image_url", 400),
        ('{"fps": ' + "[" * 900 + "]" * 900 + "}", "fps", 400),
        ('{"fps": ' + "[" * 60_000 + "]" * 60_000 + "}", None, 400),
        ('{"fps": {"a": ' + "[" * 450 + "NaN" + "]" * 450 + "}}", "fps", 400),
        ("[]", None, 400),
        ("1e999", None, 400),
        ("", None, 400),
        ("\ud800", None, 400),
        ('{"prompt": "' + "x" * MAX_JSON + '"}', None, 413),
    ],
)
def test_json_that_is_none(text: str, param: str | None, status: int) -> None:
    async def test() -> None:
        async with client(still_app()) as http:
            for path in PATHS:
                answer = await http.post(
                    path,
                    content=text.encode(errors="surrogatepass"),
                    headers={"Content-Type": JSON},
                )
                assert answer.status_code == status, answer.text
                if "v2beta" in path:
                    assert answer.json()["errors"][0]
                else:
                    assert answer.json()["error"]["param"] == param

    asyncio.run(test())


def test_a_length_that_is_no_number_is_no_mistake_of_the_farms() -> None:
    async def test() -> None:
        async with client(still_app()) as http:
            for length, statuses in (("9" * 5000, {413}), ("²", {400}), ("-1", {400})):
                headers = {"Content-Type": JSON, "Content-Length": length.encode("latin-1")}
                answer = await http.post("/v1/videos", content=b"{", headers=headers)  # type: ignore[arg-type]
                assert answer.status_code in statuses, answer.text

    asyncio.run(test())


@given(
    data=st.binary(max_size=9000),
    around=st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=3),
    php=st.booleans(),
    nested=st.booleans(),
)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_a_data_url_arrives_whole(
    data: bytes, around: dict[str, str], php: bool, nested: bool
) -> None:
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    value = json.dumps({"image_url": url}) if nested else url
    text = json.dumps(around | {"picture": value, "z": 1})
    fields, payloads = parse_json((text.replace("/", "\\/") if php else text).encode())
    found: Any = fields.pop("picture")
    assert fields == around | {"z": 1}
    if nested:
        found, payloads = _parse_reference(found, payloads)
    assert _data_url("a", found["image_url"] if nested else found, payloads) == data


@given(st.text(alphabet='{}[]",:\\/;=#0123eEnatuldb base64,', max_size=400), st.integers(0, 9000))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_cutting_payloads_out_changes_nothing_else(text: str, run: int) -> None:
    """What is no JSON stays none, and what is JSON stays the same."""
    text = text.replace(";base64", "data:;base64," + "A" * run)
    try:
        expected: Any = json.loads(text, parse_constant=lambda _: pytest.fail("there is none"))
    except (ValueError, RecursionError):
        expected = None
    try:
        fields, payloads = parse_json(text.encode())
    except ApiError:
        return  # a name twice, or a number too large
    whole = json.dumps(fields)
    for number, payload in enumerate(payloads):
        written = json.dumps(bytes(payload).decode())[1:-1]
        whole = whole.replace(f";base64,#{number}", f";base64,{written}")
    assert json.loads(whole) == expected


def test_slow_bodies_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farm.ingress.bodies.body.IDLE_S", 0.1)

    async def never() -> Any:
        yield b"{"
        await asyncio.sleep(60)

    async def test() -> None:
        async with client(still_app()) as http:
            for path in PATHS:
                answer = await http.post(path, content=never(), headers={"Content-Type": JSON})
                assert answer.status_code == 408, answer.text

    asyncio.run(asyncio.wait_for(test(), 30))
