"""Parameters mean the same everywhere: in Python, HTTP forms, JSON, CLI, manifests and sweeps.

Each valid value gives a request with the same digest, and each invalid one the same message.
"""

import argparse
import asyncio
import base64
import csv
import json
import math
import re
from collections.abc import Callable
from io import StringIO
from typing import Any

import httpx2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from farm.batch.manifest import parse_manifest
from farm.batch.options import batch_parser
from farm.batch.sweep import parse_sweep
from farm.client.http_remote import HttpRemote
from farm.errors import RequestError
from farm.model.job import JobRecord, Submission
from farm.model.parameters import JOB as OWN
from farm.model.parameters import check_parameters, submission_of
from farm.model.request import RenderRequest
from svd_engine.__main__ import _parser
from svd_engine.arguments import add_param_options, given_params, option, params_from
from svd_engine.deviation_catalogue import CATALOGUE, SETS
from svd_engine.params import RenderDefaults, RenderParams
from svd_engine.reader import ALIASES, NAMES
from svd_engine.values import as_text
from tests.front_door import CheckingFarm
from tests.support.asgi import bearer, client, still_app
from tests.support.farm_jobs import picture_bytes

DIGEST = "a" * 64
DEFAULTS = RenderDefaults(width=64, height=48, num_frames=5)
PICTURE = picture_bytes()


class Keeping(CheckingFarm):
    """Keeps what it is asked for."""

    got: Submission | None = None

    async def submit(self, submission: Submission, picture: bytes) -> Any:
        self.got = submission
        return await self.find("acme")

    async def check(self, submission: Submission, digest: str) -> tuple[JobRecord, int]:
        self.got = submission
        return await super().check(submission, digest)


FARM = Keeping()
APP = still_app(FARM)


class Door(httpx2.BaseTransport):
    """The app, for a client that is not of asyncio."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        async def ask() -> httpx2.Response:
            async with client(APP) as http:
                return await http.request(
                    request.method,
                    request.url.path,
                    content=request.read(),
                    headers=request.headers,
                )

        answer = asyncio.run(ask())
        return httpx2.Response(answer.status_code, headers=answer.headers, content=answer.content)


def http(**request: Any) -> Submission:
    async def ask() -> httpx2.Response:
        async with client(APP) as http:
            return await http.post("/v1/videos/check", **request)

    answer = asyncio.run(ask())
    if answer.status_code != 200:
        error = answer.json()["error"]
        assert (answer.status_code, error["type"]) == (400, "invalid_request_error"), answer.text
        raise RequestError(error["message"])
    assert FARM.got is not None
    return FARM.got


def form(name: str, value: Any) -> Submission:
    files = {"input_reference": ("a.png", PICTURE), name: (None, as_text(value))}
    return http(files=files)


def json_body(name: str, value: Any) -> Submission:
    url = "data:;base64," + base64.b64encode(PICTURE).decode()
    text = json.dumps({"input_reference": url, name: value})
    return http(content=text, headers={"Content-Type": "application/json"})


def python(name: str, value: Any) -> Submission:
    return submission_of(check_parameters({name: value}))


REMOTE = HttpRemote("http://localhost")
REMOTE._client.close()
REMOTE._client = httpx2.Client(
    transport=Door(), base_url="http://localhost", headers=bearer("sesame")
)
ENGINE_PARSER, BATCH_PARSER = _parser(), batch_parser()


def python_over_http(name: str, value: Any) -> Submission:
    REMOTE.submit(PICTURE, check_parameters({name: value}))
    assert FARM.got is not None
    return FARM.got


def as_submission(params: RenderParams) -> Submission:
    return Submission(params=params)


def command_line(name: str, value: Any) -> Submission:
    flag = f"{option(name)}={as_text(value)}"
    options = ENGINE_PARSER.parse_args(["render", "a.png", "--out", "a.mp4", flag])
    try:
        return as_submission(params_from(options))
    except ValueError as error:
        raise RequestError(str(error)) from error


def sweep(name: str, value: Any) -> Submission:
    flag = f"{option(name)}={once(name, value)}"
    options = BATCH_PARSER.parse_args(["a.png", "--out", "out", flag])
    try:
        (combination,) = parse_sweep(given_params(options), "0").combinations()
    except ValueError as error:
        raise RequestError(str(error)) from error
    return as_submission(RenderParams(**combination))


def once(name: str, value: Any) -> str:
    """As one value of a sweep, in which commas are between several."""
    return "+".join(value) if name == "deviations" else as_text(value)


def csv_row(name: str, value: Any) -> Submission:
    text = StringIO()
    csv.writer(text).writerows([["picture", name], ["a.png", as_text(value)]])
    return manifest(text.getvalue(), "rows.csv")


def jsonl_row(name: str, value: Any) -> Submission:
    return manifest(json.dumps({"picture": "a.png", name: value}), "rows.jsonl")


def manifest(text: str, where: str) -> Submission:
    (entry,) = parse_manifest(text.encode(), where)
    return as_submission(RenderParams(**entry.params))


FARM_DOORS: dict[str, Callable[[str, Any], Submission]] = {
    "Python": python,
    "Python over HTTP": python_over_http,
    "form": form,
    "JSON": json_body,
}
TEXT_DOORS: dict[str, Callable[[str, Any], Submission]] = {
    "command line": command_line,
    "sweep": sweep,
    "CSV": csv_row,
    "JSONL": jsonl_row,
}


def doors(name: str) -> dict[str, Callable[[str, Any], Submission]]:
    """Those that have such a parameter."""
    if name in OWN or name in ("variant", "dtype"):
        return FARM_DOORS
    there = FARM_DOORS | TEXT_DOORS
    if name == "seed":  # which has a language of its own there: `--seeds 0-3,7`
        del there["sweep"]
    return there


def asked_for(submission: Submission) -> tuple[str, Any]:
    """All that counts of a submission: its clips' digest, and what else was asked."""
    request = RenderRequest(
        picture=DIGEST,
        weights=DIGEST,
        dtype=submission.model.dtype,
        params=submission.params.resolve(DEFAULTS),
        num_videos=submission.num_videos,
    )
    own = {name: getattr(submission, name) for name in OWN if name != "tenant"}
    return request.digest, own | {"variant": submission.model.variant}


def outcomes(name: str, value: Any) -> dict[str, Any]:
    """What each door makes of a value: what is told of the submission, or why there is none."""
    found: dict[str, Any] = {}
    for door, give in doors(name).items():
        try:
            found[door] = asked_for(give(name, value))
        except RequestError as error:
            message = (
                str(error).removeprefix("rows.csv line 2: ").removeprefix("rows.jsonl line 1: ")
            )
            found[door] = message.removeprefix(f"--{name.replace('_', '-')}: ").removeprefix(
                f"{name}: "
            )
    return found


def agree(name: str, value: Any) -> Any:
    """The one outcome of all doors."""
    found = outcomes(name, value)
    assert len({repr(each) for each in found.values()}) == 1, (name, value, found)
    return next(iter(found.values()))


def floats(least: float, most: float) -> st.SearchStrategy[Any]:
    return st.floats(least, most, allow_nan=False) | st.integers(math.ceil(least), int(most))


SIDES = st.integers(1, 1024).map(lambda n: 8 * n)
LEGAL: dict[str, st.SearchStrategy[Any]] = {
    "width": SIDES,
    "height": SIDES,
    "num_frames": st.integers(1, 1024),
    "num_inference_steps": st.integers(1, 1000),
    "sigmas": st.lists(floats(0, 1000), min_size=2, max_size=6, unique_by=float).map(
        lambda levels: sorted(levels, reverse=True)
    ),
    "tier": st.sampled_from(["exact", "fast", "reuse"]),
    "reuse_interval": st.integers(1, 10),
    "min_guidance_scale": floats(0, 1000),
    "max_guidance_scale": floats(0, 1000),
    "fps": st.integers(1, 240),
    "motion_bucket_id": st.integers(0, 1023),
    "noise_aug_strength": floats(0, 100),
    "decode_chunk_size": st.integers(1, 5000),
    "seed": st.integers(0, 2**64 - 1),
    "fit": st.sampled_from(["stretch", "crop", "pad"]),
    "deviations": st.lists(st.sampled_from([*CATALOGUE, *SETS]), min_size=1, max_size=4),
    "num_videos": st.integers(1, 1000),
    "priority": st.integers(0, 100),
    "force": st.booleans(),
    "start_within_s": floats(0.5, 1e9),
    "finish_within_s": floats(0.5, 1e9),
    "variant": st.text("abcXYZ019_-", min_size=1, max_size=40),
    "dtype": st.sampled_from(["float32", "float16", "bfloat16"]),
}
NUMBERS = [
    name
    for name in LEGAL
    if name not in ("fit", "tier", "deviations", "variant", "dtype", "sigmas")
]


def test_every_parameter_is_tried() -> None:
    elsewhere = {"webhook_url", "tenant"}  # `check_webhook`; over HTTP the key says who asks
    assert set(LEGAL) == {*RenderParams.model_fields, "variant", "dtype", *OWN} - elsewhere


@pytest.mark.parametrize("name", LEGAL)
def test_a_legal_value_is_the_same_request_at_every_door(name: str) -> None:
    @given(LEGAL[name])
    @settings(max_examples=3, deadline=None, derandomize=True)
    def each(value: Any) -> None:
        assert isinstance(agree(name, value), tuple), value

    each()


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_is_its_parameter_at_every_door(alias: str) -> None:
    name = ALIASES[alias]
    assert agree(alias, 5) == agree(name, 5)


def suggestion(door: str, name: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The name that a door suggests in the place of one that it refuses."""
    with pytest.raises((RequestError, SystemExit)) as caught:
        (FARM_DOORS | TEXT_DOORS)[door](name, 7)
    errors = f"{caught.value} {capsys.readouterr().err}"
    found = re.search(r"Did you mean '?-*([\w-]+)'?\?", errors)
    assert found is not None, errors
    return found[1].replace("-", "_")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("stesp", "steps"),
        ("bucket", "motion_bucket_id"),
        ("frames", "num_frames"),
        ("guidence_scale", "guidance_scale"),
        ("noise_aug_strenght", "noise_aug_strength"),
    ],
)
def test_every_door_refuses_another_name_and_suggests_the_same(
    name: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    doors = FARM_DOORS | TEXT_DOORS
    found = {door: suggestion(door, name, capsys) for door in doors}
    assert found == dict.fromkeys(doors, meant)


def test_a_name_that_is_like_no_other_is_refused_with_all_that_there_are() -> None:
    for give in (python, form, json_body, csv_row, jsonl_row):
        with pytest.raises(
            RequestError, match=r"Unknown parameter 'xyzzy'\. The parameters are"
        ) as e:
            give("xyzzy", 7)
        for name in NAMES:
            assert name in str(e.value)


ODD = [
    *(True, False, 0, 1, -1, 7.0, 7.5, 1e3, 1e19, 2**53 + 1, 2**64, -0.0, 1e-9, 1e308),
    *(math.nan, math.inf, -math.inf, 10**401, -(10**401)),
    *("7 ", " 7", "+7", "007", "7.0", "7.", ".5", "1e3", "1E+3", "7,5", "1_000", "0x10"),
    *("\u0667", "\uff17", "true", "True", "FALSE", "yes", "on", "nan", "Infinity", "-inf"),
    *("seven", "7s", "--7", "- 7", "1e", "e3", "9" * 401, "1e999", "null", "None", "\u00e9"),
]


# One of each kind: whole, of any size, a number, above 0, true or false.
KINDS = ("fps", "seed", "noise_aug_strength", "start_within_s", "force")


@pytest.mark.parametrize("name", KINDS)
def test_an_odd_number_is_the_same_at_every_door(name: str) -> None:
    for value in ODD:
        if name not in OWN and isinstance(value, str) and "," in value:
            continue  # of a sweep, two values
        agree(name, value)


@given(st.sampled_from(NUMBERS), st.text(max_size=12) | st.floats() | st.integers())
@example("fps", "0")
@settings(max_examples=20, deadline=None, derandomize=True)
def test_whatever_is_given_is_the_same_at_every_door(name: str, value: Any) -> None:
    text = value if isinstance(value, str) else ""
    if "," in text or "\0" in text or not text.isprintable():
        return  # of a sweep, two values; no command line, or another line of a CSV
    agree(name, value)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("fps", True, "Input should be a valid integer, got true"),
        ("fps", 0, "Input should be greater than or equal to 1, got 0"),
        ("fps", "fast", "Input should be a valid integer, got 'fast'"),
        ("seed", 1e19, "Input should be a valid integer, got 1e+19"),
        ("noise_aug_strength", math.nan, "Input should be a finite number, got nan"),
        ("sigmas", [1, 2], "sigmas must fall at every step, got [1.0, 2.0]"),
        ("sigmas", [2, True], "Input should be a valid number, got true"),
        ("sigmas", ["2", "x"], "Input should be a valid number, got 'x'"),
        ("sigmas", [3], "sigmas need at least two levels: where to start and where to end"),
        (
            "tier",
            "fats",
            "Input should be 'exact', 'fast' or 'reuse', got 'fats'. Did you mean 'fast'?",
        ),
        ("reuse_interval", 0, "Input should be greater than or equal to 1, got 0"),
        ("fit", "squash", "Input should be 'stretch', 'crop' or 'pad', got 'squash'"),
        (
            "deviations",
            ["norm_epsilon"],
            "Unknown deviation 'norm_epsilon'. Did you mean 'norm_eps'? There are ",
        ),
        ("force", 2, "Input should be a valid boolean, got 2"),
        ("num_videos", True, "Input should be a valid integer, got true"),
        ("priority", 101, "Input should be less than or equal to 100, got 101"),
        ("variant", "../x", "give a name such as fp16, got '../x'"),
        ("dtype", "int8", "Input should be 'float32', 'float16' or 'bfloat16', got 'int8'"),
    ],
)
def test_what_is_wrong_is_said_alike(name: str, value: Any, words: str) -> None:
    found = agree(name, value)
    assert isinstance(found, str)
    assert found.startswith(words)


def test_all_that_is_wrong_is_told_at_once() -> None:
    given = {"fps": True, "priority": "high", "dtype": "int8"}
    with pytest.raises(RequestError) as caught:
        check_parameters(given)
    for name in given:
        assert f"{name}: Input should be" in str(caught.value)
    files = {name: (None, as_text(value)) for name, value in given.items()}
    with pytest.raises(RequestError) as over_http:
        http(files={"input_reference": ("a.png", PICTURE), **files})
    assert str(over_http.value) == str(caught.value)


def test_parameters_that_contradict_are_refused_alike() -> None:
    given = {"tier": "fast", "sigmas": [3, 1, 0]}
    words = "tier: the tier fast has sigmas of its own"
    with pytest.raises(RequestError, match=words):
        check_parameters(given)
    files = {name: (None, as_text(value)) for name, value in given.items()}
    with pytest.raises(RequestError, match=words):
        http(files={"input_reference": ("a.png", PICTURE), **files})
    options = ["--tier", "fast", "--sigmas", "3,1,0"]
    with pytest.raises(ValueError, match=f"--{words}"):
        params_from(ENGINE_PARSER.parse_args(["render", "a.png", "--out", "a.mp4", *options]))
    with pytest.raises(ValueError, match=f"--{words}"):
        parse_sweep(given_params(BATCH_PARSER.parse_args(["a.png", "--out", "o", *options])), "0")
    with pytest.raises(RequestError, match=f"line 1: {words}"):
        manifest(json.dumps({"picture": "a.png", **given}), "rows.jsonl")


def test_seeds_that_pass_the_last_one_are_refused_alike() -> None:
    given = {"seed": 2**64 - 1, "num_videos": 2}
    with pytest.raises(RequestError, match=r"num_videos: seeds from .* would pass"):
        check_parameters(given)
    with pytest.raises(RequestError, match=r"num_videos: seeds from .* would pass"):
        http(files={"input_reference": PICTURE, **{n: (None, str(v)) for n, v in given.items()}})


@pytest.mark.parametrize("seconds", [True, "true", "nan", -1, 0, "0", "x", 1e400])
def test_seconds_are_a_number(seconds: Any) -> None:
    for door in (form, json_body):
        with pytest.raises(RequestError, match="seconds: give a number above 0, got "):
            door("seconds", seconds)


def test_help_says_what_a_parameter_is(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_param_options(parser)
    parser.print_help()
    assert "--deviations NAME+NAME+..." in capsys.readouterr().out
