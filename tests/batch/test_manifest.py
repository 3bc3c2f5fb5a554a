"""Manifests: wrong rows are reported by line, and CSV and JSONL mean the same."""

import csv
import json
from contextlib import suppress
from io import StringIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.batch.manifest import MAX_FAULTS, is_name, parse_manifest
from farm.errors import RequestError


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("", ["rows.csv has no rows"]),
        ("picture,fps\n", ["rows.csv has no rows"]),
        ("fps\n7", ["line 1: no column 'picture'"]),
        (
            "picture,speed\na,1\nb,2",
            [r"line 1: Unknown parameter 'speed'. Did you mean 'seed'\?"],
        ),
        ("picture,steps,num_inference_steps\n", ["line 1: num_inference_steps: given twice"]),
        ("picture,fps\na,1,0", ["line 2: '0' is in a column without a name; put .*in quotes"]),
        ("picture,,fps\na,x,7", ["line 2: 'x' is in a column without a name"]),
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
    with pytest.raises(RequestError, match=r"rows\.jsonl line 2: not UTF-8"):
        parse_manifest(b'{"picture": "a"}\n"caf\xe9.png"\n', "rows.jsonl")
    rows = b"picture,fps\n" + b"a,0\n" * (MAX_FAULTS + 5)
    with pytest.raises(RequestError) as caught:
        parse_manifest(rows, "rows.csv")
    lines = str(caught.value).splitlines()
    assert len(lines) == MAX_FAULTS + 1
    assert lines[-1] == "and 5 more"


def test_columns_in_any_case_with_trailing_delimiters_and_blank_lines() -> None:
    text = "\n,,,\nPicture,FPS,Motion Bucket ID,,\n\na.png,7,40,,\n , ,\nb.png\n"
    entries = parse_manifest(text.encode(), "rows.csv")
    assert [(e.line, e.picture, e.params) for e in entries] == [
        (5, "a.png", {"fps": 7, "motion_bucket_id": 40}),
        (7, "b.png", {}),
    ]
    (entry,) = parse_manifest(b'{"Picture": "a", "Motion Bucket ID": 3}', "rows.jsonl")
    assert entry.params == {"motion_bucket_id": 3}


def test_a_first_line_for_excel_and_decimal_commas() -> None:
    text = "sep=;\npicture;noise aug strength;sigmas\na.png;0,02;\n"
    (entry,) = parse_manifest(text.encode(), "rows.csv")
    assert (entry.line, entry.params) == (3, {"noise_aug_strength": 0.02})


def test_a_table_of_one_column_is_one() -> None:
    (entry,) = parse_manifest("picture\na;b|c.png\n".encode("utf-16"), "rows.txt")
    assert entry.picture == "a;b|c.png"


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


ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252")
PLAIN = st.characters(codec="cp1252", exclude_categories=["Cc", "Cs"])


@given(
    rows=st.lists(
        st.tuples(st.text(PLAIN, min_size=1).filter(str.strip), st.integers(1, 240)), min_size=1
    ),
    delimiter=st.sampled_from(",;\t"),
    encoding=st.sampled_from(ENCODINGS),
    newline=st.sampled_from(["\r\n", "\n", "\r"]),
    trailing=st.integers(0, 2),
)
def test_what_excel_writes_is_read(
    rows: list[tuple[str, int]], delimiter: str, encoding: str, newline: str, trailing: int
) -> None:
    out = StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator=newline)
    for row in [("Picture", "Fps"), *rows]:
        writer.writerow([*row, *[""] * trailing])
    entries = parse_manifest(out.getvalue().encode(encoding), "rows.csv")
    read = [(entry.picture, entry.params["fps"]) for entry in entries]
    if encoding == "cp1252":
        with suppress(
            UnicodeDecodeError
        ):  # by chance it is UTF-8 too, and then that is what counts
            read = [
                (picture.encode("cp1252", "replace").decode("cp1252"), fps) for picture, fps in read
            ]
            out.getvalue().encode("cp1252").decode()
            return
    expected = [
        # A space at the beginning counts only within quotes, which the writer sets where needed.
        (picture if {'"', delimiter} & set(picture) else picture.lstrip(" "), fps)
        for picture, fps in rows
    ]
    assert read == expected


@given(data=st.binary(max_size=200), suffix=st.sampled_from(["csv", "jsonl"]))
def test_no_bytes_break_the_parser(data: bytes, suffix: str) -> None:
    with suppress(RequestError):
        assert parse_manifest(data, f"rows.{suffix}")
