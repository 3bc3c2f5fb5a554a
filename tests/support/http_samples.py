"""HTTP in a README: requests by curl, and sample answers, against the API's own description."""

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, NoReturn
from urllib.parse import parse_qsl, urlsplit

import jsonschema

from tests.support.asgi import still_app
from tests.support.pages import Page


class SampleError(Exception):
    """A request that the API does not know, or an answer that it does not give."""


@dataclass(frozen=True)
class Sample:
    """The answer to a request."""

    where: str
    request: tuple[str, ...]  # curl's words
    status: int
    body: Any


def samples(page: Page) -> Iterator[Sample]:
    """The JSON in the block after a request by curl: alone (200), or below an answer's head."""
    commands = list(page.commands)
    for asked, block in pairwise(page.blocks):
        requests = [each.words for each in commands if each.where == str(asked)]
        if not requests or requests[-1][0] != "curl":
            continue
        head, _, body = block.code.rpartition("\n\n")
        if body.startswith("{") and block.language in ("json", "http"):
            status = int(head.split()[1]) if head else 200
            yield Sample(str(block), requests[-1], status, json.loads(body))


def check_request(words: Sequence[str]) -> None:
    """Raise SampleError unless the API has the call, its query and its fields."""
    options = _curl(words)
    operation = _operation(options)
    url = urlsplit(options.url)
    known = {each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"}
    _check_names({name for name, _ in parse_qsl(url.query)}, known, options.url)
    fields = {field.partition("=")[0] for field in options.form}
    if fields:
        schema = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
        _check_names(fields, set(schema["properties"]), options.url)


def check_sample(sample: Sample) -> None:
    """Raise SampleError unless the answer is of the shape that the API describes."""
    operation = _operation(_curl(sample.request))
    answer = operation["responses"].get(str(sample.status))
    if answer is None:
        raise SampleError(f"{sample.where}: the API gives no {sample.status}")
    schema = answer["content"]["application/json"]["schema"]
    try:
        jsonschema.validate(
            sample.body, _strict({**schema, "components": _openapi()["components"]})
        )
    except jsonschema.ValidationError as error:
        raise SampleError(f"{sample.where}: {error.message}") from error


def _strict(schema: Any) -> Any:
    """The schema with nothing beside the named properties."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {name: _strict(value) for name, value in schema.items()}
    if isinstance(schema.get("properties"), dict):
        strict.setdefault("additionalProperties", False)
    return strict


class _Curl(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SampleError(f"curl: {message}")


def _curl(words: Sequence[str]) -> argparse.Namespace:
    """Curl's options, as far as the READMEs use them."""
    parser = _Curl(add_help=False, allow_abbrev=False)
    for flag in ("-s", "-i", "-I", "-L", "-N"):
        parser.add_argument(flag, action="store_true")
    for option in ("-o", "-r", "-d", "-D"):
        parser.add_argument(option)
    parser.add_argument("-X", dest="method")
    parser.add_argument("-F", dest="form", action="append", default=[])
    parser.add_argument("-H", dest="headers", action="append", default=[])
    parser.add_argument("url")
    return parser.parse_args(list(words[1:]))


def _operation(options: argparse.Namespace) -> Any:
    method = options.method or ("POST" if options.form or options.d else "GET")
    path = urlsplit(options.url).path
    for template, operations in _openapi()["paths"].items():
        known = re.fullmatch(re.sub(r"\{[^}]*\}", "[^/]+", template), path)
        if known and method.lower() in operations:
            return operations[method.lower()]
    raise SampleError(f"the API has no {method} {path}")


def _check_names(given: set[str], known: set[str], url: str) -> None:
    if given - known:
        raise SampleError(f"{url}: there is no {', '.join(sorted(given - known))}")


@cache
def _openapi() -> Any:
    return still_app().openapi()
