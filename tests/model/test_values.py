"""Values of parameters become text and are read again as what they were."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from svd_engine.nearest import nearest
from svd_engine.values import Value, as_label, as_text, flag, listed, number, whole

SCALARS = st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)


@given(SCALARS)
def test_a_number_and_a_boolean_are_read_from_their_text(value: Any) -> None:
    read = flag(as_text(value)) if isinstance(value, bool) else number(as_text(value))
    assert read == value
    assert isinstance(read, bool) == isinstance(value, bool)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_a_list_is_read_from_its_text(values: list[float]) -> None:
    assert listed(as_text(values)) == values


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (True, "true"),
        (False, "false"),
        (7, "7"),
        (3.0, "3"),
        (1e-05, "1e-05"),
        ("crop", "crop"),
        ((3.0, 0.5, 0.0), "3+0.5+0"),
        (("norm_eps", "sine_first"), "norm_eps+sine_first"),
    ],
)
def test_labels_are_short_and_records_keep_the_value(value: Value, label: str) -> None:
    assert as_label(value) == label
    adapter: TypeAdapter[Any] = TypeAdapter(Value)
    kept = adapter.validate_json(adapter.dump_json(value))
    assert (kept, type(kept)) == (value, type(value))


@pytest.mark.parametrize("given_", ["yes", "on", "TRUE", "1", 1, 1.0, True])
def test_what_is_true(given_: Any) -> None:
    assert flag(given_) is True


def test_numbers_that_are_whole() -> None:
    assert [whole(each) for each in ("7", "7.0", "7e0", 7.0)] == [7, 7, 7, 7]
    assert whole(7.5) == 7.5


@pytest.mark.parametrize(
    ("name", "meant"),
    [("sed", "seed"), ("bucket", "bucket_id"), ("FRAMES", "frames"), ("e", None), ("xyz", None)],
)
def test_the_nearest_name(name: str, meant: str | None) -> None:
    assert nearest(name, ["seed", "motion_bucket_id", "bucket_id", "frames"]) == meant
