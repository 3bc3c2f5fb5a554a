"""Job ids and tenants are parts of store keys: invalid ones are refused everywhere."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from farm.errors import RequestError
from farm.model.job import Submission
from farm.settings import Key, load_settings
from farm.store import open_store
from farm.store.keys import Name, job_key, job_of, open_job_of, open_key, tenant_key
from tests.support.asgi import client, still_app

BAD = (
    "",
    ".",
    "..",
    ".hidden",
    "a/b",
    "../a",
    "a\\b",
    "a b",
    "a\n",
    "a\0",
    "x" * 81,
    "𐍈" * 60,
    "a\u0301",
)


@pytest.mark.parametrize("name", BAD)
def test_no_door_takes_a_name_that_is_no_part_of_a_path(name: str) -> None:
    doors: list[Any] = [
        lambda: Key(tenant=name),
        lambda: Submission(tenant=name),
        lambda: Submission(id=name),
    ]
    for door in doors:
        with pytest.raises(ValidationError, match="begins with no dot"):
            door()
    with pytest.raises(RequestError, match=r"FARM_MAX_GPUS.*begins with no dot"):
        load_settings(max_gpus={name: 1})


@given(st.text(max_size=90) | st.from_regex(r"[\w.-]{1,80}", fullmatch=True))
def test_a_name_is_found_again_in_its_keys(tmp_path_factory: Any, name: str) -> None:
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        return
    assert job_of(job_key(name)) == open_job_of(open_key(name)) == name
    folder: Path = tmp_path_factory.mktemp("store")
    store = open_store(str(folder))
    keys = [job_key(name), open_key(name), tenant_key(name, name)]
    for key in keys:
        store.put(key, b"x")
    assert sorted(store.list("")) == sorted(keys)


@pytest.mark.parametrize("name", ["%2e%2e", "..%2f..%2fjobs", "%00"])
def test_over_http_such_a_job_is_none(name: str) -> None:
    async def test() -> None:
        async with client(still_app()) as http:
            for end in ("", "/events", "/content"):
                answer = await http.get(f"/v1/videos/{name}{end}")
                assert answer.status_code in (400, 404, 405), answer.text

    asyncio.run(test())
