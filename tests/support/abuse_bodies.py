"""Randomly generated requests with a wrong body or path, and `bad_requests` of every kind."""

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

from tests.support import abuse
from tests.support.abuse import (
    ANY,
    CHECK,
    CREATE,
    FORM,
    PICTURE,
    SMALL,
    STABILITY,
    Abuse,
    as_form,
    multipart,
    raw,
)


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
    abuse = raw(random.choice((CREATE, CHECK, STABILITY)), body, None, kind)
    return replace(abuse, statuses=(413,), param="prompt") if len(body) > 65_536 else abuse


def cut_off(random: Random) -> Abuse:
    """A body that ends too early, but after everything that a job needs."""
    if random.random() < 0.5:
        body = json.dumps(SMALL | {"prompt": "x" * 50})
        return raw(CREATE, body[: random.randrange(len(body))], None)
    parts = [(name, str(value).encode()) for name, value in SMALL.items()]
    form = multipart(*parts, ("prompt", b"x" * 500))
    start = form.index(b"xxx")
    return raw(CREATE, form[: random.randrange(start, len(form) - 4)], None, FORM)


def wrong_content_type(random: Random) -> Abuse:
    kind = random.choice(
        ("text/plain", "application/x-www-form-urlencoded", "image/png", "", "a/b; c=d", "json")
    )
    options = raw(CREATE, PICTURE, None, kind).options
    path = random.choice((CREATE, CHECK, STABILITY))
    return Abuse(path, None, statuses=(400,) if path == STABILITY else (415,), options=options)


def too_large(random: Random) -> Abuse:
    """A body over 1 MiB, which is the limit of the tests' server."""
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
    first, two = str(SMALL.get(name, 1)), str(SMALL.get(name, 2))
    if random.random() < 0.3:
        parts = multipart((name, first.encode()), (f"{name}[]", two.encode()))
        return raw(CREATE, parts, name, FORM)
    if random.random() < 0.5:
        return raw(CREATE, multipart((name, first.encode()), (name, two.encode())), name, FORM)
    return raw(CREATE, f'{{"{name}": {json.dumps(first)}, "{name}": {json.dumps(two)}}}', name)


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
    """A bad request for the events or the content of a completed video."""
    path = f"{CREATE}/{video}"
    if random.random() < 0.4:
        headers = {"Last-Event-ID": random.choice(("-1", "x", "1.5", "9" * 19, "1 2"))}
        return Abuse(f"{path}/events", "Last-Event-ID", "GET", options={"headers": headers})
    if random.random() < 0.3:
        headers = {"Range": random.choice(("bytes=99999999-", "bytes=-0", f"bytes={'9' * 18}-"))}
        return Abuse(f"{path}/content", "Range", "GET", (416,), options={"headers": headers})
    name, value = random.choice(
        (("variant", "gif"), ("variant", ""), ("index", "-1"), ("index", "1"), ("index", "x"))
    )
    return Abuse(f"{path}/content", name, "GET", options={"params": {name: value}})


KINDS: tuple[Callable[[Random], Abuse], ...] = (
    abuse.unknown_name,
    abuse.wrong_type,
    abuse.out_of_bounds,
    abuse.out_of_bounds,
    abuse.bad_levels,
    abuse.two_names,
    abuse.bad_text,
    abuse.past_the_last_seed,
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
    abuse.of_stability,
    bad_path,
    bad_generation,
    bad_query,
    bad_key,
)


def bad_requests(count: int, video: str) -> list[Abuse]:
    """`count` bad requests, with equal numbers of each kind. video: the id of a completed video."""
    random = Random(0)

    def of_a_video(random: Random) -> Abuse:
        return bad_of_a_video(random, video)

    kinds = (*KINDS, of_a_video)
    return [kinds[n % len(kinds)](random) for n in range(count)]
