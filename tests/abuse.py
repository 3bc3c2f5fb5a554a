"""Bad requests and mutated pictures, by chance and always the same ones."""

import base64
import json
import string
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from random import Random
from typing import Any

from PIL import Image

from farm.ingress.fields import ALIASES
from farm.job import Submission
from svd_engine.params import RenderParams
from tests.conftest import draw_picture

CREATE, CHECK, STABILITY = "/v1/videos", "/v1/videos/check", "/v2beta/image-to-video"
SMALL = {"width": 64, "height": 48, "num_frames": 2, "num_inference_steps": 1, "model": "tiny"}
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP")
PARAMS = RenderParams.model_json_schema()["properties"]
OWN = {
    name: Submission.model_json_schema()["properties"][name]
    for name in ("num_videos", "priority", "start_within_s", "finish_within_s")
}
ANY = "*"  # several things may be at fault, or what is left of a name


@dataclass(frozen=True)
class Abuse:
    """A request that must be refused. param: what the answer must name."""

    path: str
    param: str | None = None
    method: str = "POST"
    statuses: tuple[int, ...] = (400,)
    options: dict[str, Any] = field(default_factory=dict)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


PICTURE = encoded(draw_picture(90, 60))
LARGE = encoded(Image.new("RGB", (768, 768)))  # a size that Stability took


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
    """A form of parts whose names are put in as they are."""
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
    value = random.choice(("nonsense", {"a": 1}, [[1]], "1e", "0x1f", float("nan"), "é", "\0"))
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
    """A value just outside of its bounds, or far outside."""
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


def broken_form(random: Random) -> Abuse:
    whole = multipart(("fps", b"7"))
    body, kind = random.choice(
        (
            (whole, "multipart/form-data"),
            (whole, "multipart/form-data; boundary="),
            (whole, "multipart/form-data; boundary=other"),
            (random.randbytes(200), FORM),
            (b"", FORM),
            (whole.replace(b"; name", b"; title"), FORM),
            (whole.replace(b"Content-Disposition", b"X" * 9000), FORM),
            (whole.replace(b"\r\n\r\n", b"\n"), FORM),
            (multipart(*((f"f{n}", b"1") for n in range(1200))), FORM),
            (multipart(("prompt", b"x" * 70_000)), FORM),
        )
    )
    return raw(random.choice((CREATE, CHECK, STABILITY)), body, None, kind)


def cut_off(random: Random) -> Abuse:
    """A body that ends too early, with all that is needed for a job in its first half."""
    if random.random() < 0.5:
        body = json.dumps(SMALL | {"prompt": "x" * 50})
        return raw(CREATE, body[: random.randrange(len(body))], None)
    parts = [(name, str(value).encode()) for name, value in SMALL.items()]
    body = multipart(*parts, ("prompt", b"x" * 500))
    start = body.index(b"xxx")
    return raw(CREATE, body[: random.randrange(start, len(body) - 4)], None, FORM)


def wrong_content_type(random: Random) -> Abuse:
    kind = random.choice(
        ("text/plain", "application/x-www-form-urlencoded", "image/png", "", "a/b; c=d", "json")
    )
    options = raw(CREATE, PICTURE, None, kind).options
    path = random.choice((CREATE, CHECK, STABILITY))
    return Abuse(path, None, statuses=(400,) if path == STABILITY else (415,), options=options)


def too_large(random: Random) -> Abuse:
    """Over what a server of the tests takes: 1 MiB."""
    size = 2**20 + random.randint(1, 2**16)
    path = random.choice((CREATE, CHECK, STABILITY))
    body: Any = bytes(size) if random.random() < 0.5 else (bytes(2**16) for _ in range(20))
    return Abuse(path, None, statuses=(413,), options=raw(path, body, None).options)


def huge_header(random: Random) -> Abuse:
    options = as_form(CHECK, SMALL | {"fps": 0}, None).options
    headers = {f"X-{n}": "a" * random.randint(1, 20_000) for n in range(random.randint(1, 40))}
    return Abuse(CHECK, "fps", options=options | {"headers": headers})


def nested(random: Random) -> Abuse:
    depth = random.choice((10, 900, 20_000))
    pair = random.choice((("[", "]"), ('{"a":', "}")))
    value = pair[0] * depth + "1" + pair[1] * depth
    if depth < 900:
        name = random.choice(("fps", "seed", "width", "dtype", "fit", "priority"))
        return raw(CHECK, f'{{"{name}": {value}}}', name)
    return raw(CREATE, f'{{"fps": {value}}}', ANY)


def no_utf8(random: Random) -> Abuse:
    bad = bytes(random.randint(0x80, 0xFF) for _ in range(5)) + b"\xff"
    return random.choice(
        (
            raw(CREATE, b'{"prompt": "' + bad + b'"}', None),
            raw(CREATE, b'{"\\udc80": 1}', "\\udc80"),
            raw(CHECK, b'{"fps": "\\ud800"}', "fps"),
            raw(CREATE, multipart(("fps", bad)), "fps", FORM),
            raw(CREATE, multipart(("fps", bad)), "fps", FORM + "; charset=utf-16"),
            raw(CREATE, multipart(("x_é", b"1")), "x_é", FORM),
        )
    )


def given_twice(random: Random) -> Abuse:
    name = random.choice([*SMALL, "seed", "fps"])
    one, two = str(SMALL.get(name, 1)), str(SMALL.get(name, 2))
    if random.random() < 0.3:
        parts = multipart((name, one.encode()), (f"{name}[]", two.encode()))
        return raw(CREATE, parts, name, FORM)
    if random.random() < 0.5:
        return raw(CREATE, multipart((name, one.encode()), (name, two.encode())), name, FORM)
    return raw(CREATE, f'{{"{name}": {json.dumps(one)}, "{name}": {json.dumps(two)}}}', name)


def bad_picture_field(random: Random) -> Abuse:
    png = "data:image/png;base64,"
    value = random.choice(
        ("http://169.254.169.254/", "file:///etc/passwd", png, png + "é", png + "A", "", 5, [1])
    )
    path, name = random.choice(((CREATE, "input_reference"), (STABILITY, "image")))
    statuses = (400, 422) if path == STABILITY else (400,)
    options = raw(path, json.dumps({name: value}), None).options
    return Abuse(path, name, statuses=statuses, options=options)


def bad_reference(random: Random) -> Abuse:
    value = random.choice(("[" * 9000, "{", "{}", "[]", '{"image_url": 5}', '{"file_id": "a"}'))
    return raw(CHECK, json.dumps({"image_reference": value}), "image_reference")


def two_pictures(random: Random) -> Abuse:
    url = "data:image/png;base64," + base64.b64encode(PICTURE).decode()
    name = random.choice(("input_reference[image_url]", "image_url"))
    return as_form(CREATE, SMALL | {name: url}, name)


def of_stability(random: Random) -> Abuse:
    name = random.choice(("seed", "cfg_scale", "motion_bucket_id"))
    value = random.choice((-1, 2**32, "much", [1], True, float("inf"), float("nan"), {"a": 1}))
    return as_json(STABILITY, {name: value}, name)


def bad_path(random: Random) -> Abuse:
    name = random.choice(("nobody", "%00", "%2e%2e", "a%0Ab", "x" * 81, "%ff%fe", "%F0%90%8D%88"))
    end, method = random.choice(
        (("", "GET"), ("", "DELETE"), ("/content", "GET"), ("/events", "GET"), ("/cancel", "POST"))
    )
    return Abuse(f"{CREATE}/{name}{end}", "video_id", method, (400, 404))


def bad_generation(random: Random) -> Abuse:
    ids = ("0" * 64, b"../../x".hex().ljust(64, "0"), "61006200".ljust(64, "0"), "f" * 64, "zz")
    return Abuse(f"{STABILITY}/result/{random.choice(ids)}", "id", "GET", (400, 404))


def bad_query(random: Random) -> Abuse:
    name, value = random.choice(
        (
            *(("limit", value) for value in ("0", "101", "-1", "x", "1e2", "9" * 5000)),
            *(("order", value) for value in ("up", "", "ASC")),
            *(("after", value) for value in ("é", "a/b", "x" * 81, "\0")),
        )
    )
    return Abuse(CREATE, name, "GET", options={"params": {name: value}})


def bad_key(random: Random) -> Abuse:
    options = as_form(CREATE, SMALL, None).options
    headers = {"Idempotency-Key": "k" * random.randint(256, 5000)}
    return Abuse(CREATE, "idempotency-key", options=options | {"headers": headers})


def bad_of_a_video(random: Random, video: str) -> Abuse:
    """Of a completed video: its events and its content."""
    path = f"{CREATE}/{video}"
    if random.random() < 0.4:
        headers = {"Last-Event-ID": random.choice(("-1", "x", "1.5", "9" * 19, "\t1 2"))}
        return Abuse(f"{path}/events", "Last-Event-ID", "GET", options={"headers": headers})
    if random.random() < 0.3:
        headers = {"Range": random.choice(("bytes=99999999-", "bytes=-0", f"bytes={'9' * 18}-"))}
        return Abuse(f"{path}/content", None, "GET", (416,), options={"headers": headers})
    name, value = random.choice(
        (("variant", "gif"), ("variant", ""), ("index", "-1"), ("index", "1"), ("index", "x"))
    )
    return Abuse(f"{path}/content", name, "GET", options={"params": {name: value}})


KINDS: tuple[Callable[[Random], Abuse], ...] = (
    unknown_name,
    wrong_type,
    out_of_bounds,
    out_of_bounds,
    bad_levels,
    two_names,
    bad_text,
    past_the_last_seed,
    broken_form,
    cut_off,
    wrong_content_type,
    too_large,
    huge_header,
    nested,
    no_utf8,
    given_twice,
    bad_picture_field,
    bad_reference,
    two_pictures,
    of_stability,
    bad_path,
    bad_generation,
    bad_query,
    bad_key,
)


def bad_requests(count: int, video: str) -> list[Abuse]:
    """Of each kind as many. video: a completed one."""
    random = Random(0)
    kinds = (*KINDS, lambda random: bad_of_a_video(random, video))
    return [kinds[n % len(kinds)](random) for n in range(count)]


def mutated_pictures(count: int) -> list[bytes]:
    """Flipped, cut, spliced, and with heads that claim 60000 x 60000."""
    random = Random(0)
    whole = {kind: encoded(draw_picture(90, 60), kind) for kind in FORMATS}
    kinds = (flipped, flipped, cut, spliced, bomb)
    return [kinds[n % len(kinds)](whole, random) for n in range(count)]


def flipped(whole: dict[str, bytes], random: Random) -> bytes:
    data = bytearray(whole[random.choice(FORMATS)])
    for _ in range(random.choice((1, 1, 3, 30))):
        # Half of them in the head, where they do the most.
        data[random.randrange(64 if random.random() < 0.5 else len(data))] ^= 1 << random.randrange(
            8
        )
    return bytes(data)


def cut(whole: dict[str, bytes], random: Random) -> bytes:
    data = whole[random.choice(FORMATS)]
    return data[: random.randrange(len(data))]


def spliced(whole: dict[str, bytes], random: Random) -> bytes:
    head, rest = random.sample(FORMATS, 2)
    at = random.randrange(4, 64)
    return whole[head][:at] + whole[rest][random.choice((0, at)) :]


def bomb(whole: dict[str, bytes], random: Random) -> bytes:
    kind = random.choice(("PNG", "GIF", "BMP"))
    data = bytearray(whole[kind])
    if kind == "PNG":
        data[16:24] = struct.pack(">II", 60_000, 60_000)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif kind == "GIF":
        data[6:10] = struct.pack("<HH", 60_000, 60_000)
    else:
        data[18:26] = struct.pack("<ii", 60_000, 60_000)
    return bytes(data)
