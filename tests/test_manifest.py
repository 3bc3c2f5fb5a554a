"""Manifests: rows that are wrong, each told of by its line; CSV and JSONL that say the same."""

import csv
import json
from contextlib import suppress
from io import StringIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.errors import RequestError
from farm.manifest import MAX_FAULTS, is_name, parse_manifest


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("", ["rows.csv has no rows"]),
        ("picture,fps\n", ["rows.csv has no rows"]),
        ("fps\n7", ["line 1: no column 'picture'"]),
        ("picture,speed\na,1\nb,2", ["line 1: 'speed' is not one of picture, name, width, "]),
        ("picture,steps,num_inference_steps\n", ["line 1: num_inference_steps: given twice"]),
        (
            "picture,fps\na,1,0\nb",
            ["line 2: 3 cells where .* has 2; put .* in quotes", "line 3: 1"],
        ),
        (
            'picture,fps\n"a\nb",7\n,0\n',
            ["line 4: fps: .*greater.* 1, got 0\n", "line 4: picture"],
        ),
        ('picture\n"a', ["line 2: not CSV: unexpected end"]),
        ("picture,name\na,x\nb,x\n", ["line 3: name: 'x' is the name of line 2 already"]),
        ('picture,sigmas\na,"1,2"\nb,1\n', ["line 2: sigmas: .*fall", "line 3: sigmas: .*two"]),
        (
            "picture,fps\na,900",
            ["line 2: fps: Input should be less than or equal to 240, got 900"],
        ),
    ],
)
def test_wrong_csv(text: str, faults: list[str]) -> None:
    with pytest.raises(RequestError, match="(?s)" + ".*".join(faults)):
        parse_manifest(text.encode(), "rows.csv")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("\n", "rows.jsonl has no rows"),
        ('{"picture": "a"}\n{"picture"', "rows.jsonl line 2: not JSON: "),
        ('["a"]', 'must be an object, such as {"picture"'),
        ('{"fps": 7}', r"picture: give a path or s3://bucket/key, got ''"),
        ('{"picture": 7}', "picture: give .*got 7"),
        (r'{"picture": "\ud800"}', r"picture: give .*got '\\ud800'"),
        ('{"picture": "a", "picture": "b"}', "picture: given twice"),
        ('{"picture": "a", "fps": true}', "fps: .*valid integer, got true"),
        ('{"picture": "a", "fps": {"fps": 7}}', "fps: Input should be a valid integer"),
        ('{"picture": "a", "fps": 7.5}', "fps: .*got 7.5"),
        ('{"picture": "a", "noise_aug_strength": NaN}', "noise_aug_strength: .*finite"),
        ('{"picture": "a", "name": 7}', "name: give .*got 7"),
        ('{"picture": "a", "fit": "squash"}', "fit: .*'crop'.*got 'squash'"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_wrong_jsonl(text: str, fault: str) -> None:
    with pytest.raises(RequestError, match=fault):
        parse_manifest(text.encode(), "rows.jsonl")


@pytest.mark.parametrize(
    "name", ["", " ", "a/b", "..", "a..b", ".hidden", "a\nb", "a\0", "x" * 121, "\ud800"]
)
def test_names_that_no_row_may_have(name: str) -> None:
    row = json.dumps({"picture": "a", "name": name})
    assert not is_name(name)
    with pytest.raises(RequestError, match="line 1: name: give one that is fit"):
        parse_manifest(row.encode(), "rows.jsonl")


def test_not_utf8_and_too_many_faults() -> None:
    with pytest.raises(RequestError, match=r"rows\.csv line 2: not UTF-8"):
        parse_manifest(b"picture\ncaf\xe9.png\n", "rows.csv")
    rows = b"picture,fps\n" + b"a,0\n" * 15
    with pytest.raises(RequestError) as caught:
        parse_manifest(rows, "rows.csv")
    lines = str(caught.value).splitlines()
    assert len(lines) == MAX_FAULTS + 1
    assert lines[-1] == "and 5 more"


FIELDS = {
    "fps": st.integers(1, 240),
    "seed": st.integers(0, 2**64 - 1),
    "noise_aug_strength": st.floats(0, 100, allow_nan=False),
    "fit": st.sampled_from(["stretch", "crop", "pad"]),
    "sigmas": st.just((14.5, 0.5, 0.0)),
}


@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "picture": st.text(
                    st.characters(exclude_categories=["Cs", "Cc"]), min_size=1
                ).filter(str.strip)
            },
            optional=FIELDS,
        ),
        min_size=1,
    )
)
def test_csv_and_jsonl_say_the_same(rows: list[dict[str, Any]]) -> None:
    out = StringIO(newline="")
    writer = csv.DictWriter(out, ["picture", *FIELDS], quoting=csv.QUOTE_ALL)
    writer.writeheader()
    for row in rows:
        cells = dict(row)
        if "sigmas" in row:
            cells["sigmas"] = ",".join(map(str, row["sigmas"]))
        writer.writerow(cells)
    lines = "\n".join(json.dumps(row) for row in rows)
    from_csv = parse_manifest(out.getvalue().encode(), "rows.CSV")
    from_json = parse_manifest(lines.encode(), "rows.jsonl")
    assert [(e.picture, e.params) for e in from_csv] == [(e.picture, e.params) for e in from_json]
    assert [e.params for e in from_json] == [
        {k: v for k, v in row.items() if k != "picture"} for row in rows
    ]


@given(data=st.binary(max_size=200), suffix=st.sampled_from(["csv", "jsonl"]))
def test_no_bytes_break_the_parser(data: bytes, suffix: str) -> None:
    with suppress(RequestError):
        assert parse_manifest(data, f"rows.{suffix}")
