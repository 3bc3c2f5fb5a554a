"""Randomly generated requests with a wrong parameter; the seed is fixed, so they are repeatable."""

import base64
import json
import string
from dataclasses import dataclass, field
from random import Random
from typing import Any

from PIL import Image

from farm.model.job import Submission
from svd_engine.params import RenderParams
from svd_engine.reader import ALIASES
from tests.conftest import draw_picture
from tests.support.broken_pictures import encoded

CREATE, CHECK, STABILITY = "/v1/videos", "/v1/videos/check", "/v2beta/image-to-video"
SMALL = {"width": 64, "height": 48, "num_frames": 2, "num_inference_steps": 1, "model": "tiny"}
PARAMS = RenderParams.model_json_schema()["properties"]
OWN = {
    name: Submission.model_json_schema()["properties"][name]
    for name in ("num_videos", "priority", "start_within_s", "finish_within_s")
}
ANY = "*"  # the parameter that an answer names may be any


@dataclass(frozen=True)
class Abuse:
    """A request that must be refused. param: the parameter that the answer must name."""

    path: str
    param: str | None = None
    method: str = "POST"
    statuses: tuple[int, ...] = (400,)
    options: dict[str, Any] = field(default_factory=dict)


PICTURE = encoded(draw_picture(90, 60))
LARGE = encoded(Image.new("RGB", (768, 768)))  # a size that Stability's API accepts


def as_json(path: str, fields: dict[str, Any], param: str | None) -> Abuse:
    name, data = ("image", LARGE) if path == STABILITY else ("input_reference", PICTURE)
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    return raw(path, json.dumps({name: url, **fields}), param)


def as_form(path: str, fields: dict[str, Any], param: str | None) -> Abuse:
    name, data = ("image", LARGE) if path == STABILITY else ("input_reference", PICTURE)
    files = {name: ("a.png", data, "image/png")}
    return Abuse(path, param, options={"data": fields, "files": files})


def raw(
    path: str, content: str | bytes, param: str | None, kind: str = "application/json"
) -> Abuse:
    return Abuse(path, param, options={"content": content, "headers": {"Content-Type": kind}})


def multipart(*parts: tuple[str, bytes]) -> bytes:
    """A form with these parts; their names are not escaped."""
    text = b"".join(
        f'--cut\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value + b"\r\n"
        for name, value in parts
    )
    return text + b"--cut--\r\n"


FORM = "multipart/form-data; boundary=cut"


def unknown_name(random: Random) -> Abuse:
    name = "x_" + "".join(random.choices(string.ascii_lowercase, k=random.randint(1, 30)))
    send = random.choice((as_form, as_json))
    return send(random.choice((CREATE, CHECK, STABILITY)), {name: "1"}, name)


def wrong_type(random: Random) -> Abuse:
    name = random.choice([*PARAMS, *OWN])
    value: Any = random.choice(("nonsense", {"a": 1}, [[1]], "1e", "0x1f", float("nan"), "é", "\0"))
    if name in ("width", "height", "num_frames", "num_inference_steps"):
        value = random.choice((7.5, "eight", [8], {"a": 8}))
    return as_json(random.choice((CREATE, CHECK)), SMALL | {name: value}, name)


def out_of_bounds(random: Random) -> Abuse:
    schemas = {
        name: next((part for part in schema.get("anyOf", [schema]) if "type" in part), schema)
        for name, schema in (PARAMS | OWN).items()
    }
    bounded = {
        name: beyond(schema, random)
        for name, schema in schemas.items()
        if schema.keys() & {"minimum", "maximum", "exclusiveMinimum"}
    }
    name = random.choice(sorted(bounded))
    send = random.choice((as_form, as_json))
    return send(random.choice((CREATE, CHECK)), SMALL | {name: bounded[name]}, name)


def beyond(schema: dict[str, Any], random: Random) -> float:
    """A value just outside its bounds, or far outside."""
    far = random.choice((0, 1, 10**6, 10**30))
    least = schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
    most = schema.get("maximum", schema.get("exclusiveMaximum"))
    if most is None or random.random() < 0.5:
        return least - 1 - far
    return most + 1 + far


def bad_levels(random: Random) -> Abuse:
    value = random.choice(("[" * 5000, "1", "1,2,3", "3,-1", "[3, null]", "nan,0", "{}", '"a"'))
    return as_form(random.choice((CREATE, CHECK)), SMALL | {"sigmas": value}, "sigmas")


def two_names(random: Random) -> Abuse:
    alias, name = random.choice(sorted(ALIASES.items()))
    fields = {key: value for key, value in SMALL.items() if key != name}
    send = random.choice((as_form, as_json))
    return send(random.choice((CREATE, CHECK)), fields | {name: 2, alias: 3}, alias)


def bad_text(random: Random) -> Abuse:
    name, value = random.choice(
        (
            ("size", "64 by 48"),
            ("size", "-64x48"),
            ("seconds", "nan"),
            ("seconds", "1e999"),
            ("seconds", -1),
            ("model", "../../etc/passwd"),
            ("variant", "../secret"),
            ("dtype", "int4"),
            ("fit", "tile"),
            ("force", "perhaps"),
            ("fps", "9" * 9000),
            ("seed", "1" * 4000),
        )
    )
    fields = {key: SMALL[key] for key in SMALL if name not in ("size", "seconds", "model")}
    return as_form(random.choice((CREATE, CHECK)), fields | {name: value}, name)


def past_the_last_seed(random: Random) -> Abuse:
    many = random.randint(2, 1000)
    return as_json(CHECK, SMALL | {"seed": 2**64 - many + 1, "num_videos": many}, "num_videos")


def of_stability(random: Random) -> Abuse:
    name = random.choice(("seed", "cfg_scale", "motion_bucket_id"))
    value = random.choice((-1, 2**32, "much", [1], True, float("inf"), float("nan"), {"a": 1}))
    return as_json(STABILITY, {name: value}, name)
