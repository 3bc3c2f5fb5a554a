"""Pixels change only with NUMERICS.

The farm names results by NUMERICS. If a change to the code alters a pixel without raising the
number, two farms give different frames under one name. Parity tests allow for such small changes,
so these tests compare digests of frames.

Digests depend on the kind of processor and the version of torch, because other instructions add in
another order. A kind that is not in the table is skipped; one kind is enough to notice a change of
the code. The digests are of uint8 frames, which is what the farm stores, so a change that alters no
level of any frame passes.
"""

from pathlib import Path

import pytest

from svd_engine import NUMERICS
from tests.frame_digests import CLIPS, digests, kind, table

AGAIN = "python -m tests.frame_digests"


def test_the_table_is_of_these_numerics() -> None:
    assert table()["numerics"] == NUMERICS, f"NUMERICS was raised: run `{AGAIN}`"
    assert all(known.keys() == CLIPS.keys() for known in table()["digests"].values())


def test_frames_are_those_of_these_numerics(tiny: Path) -> None:
    known = table()["digests"].get(kind())
    if known is None:
        pytest.skip(f"no digests of {kind()}: where the tree is unchanged, `{AGAIN}` adds them")
    given = digests({"nano": "nano", "tiny": tiny})
    changed = [name for name in CLIPS if given[name] != known[name]]
    assert not changed, f"pixels changed: raise svd_engine.NUMERICS, then run `{AGAIN}`"


def test_digests_tell_clips_apart() -> None:
    for known in table()["digests"].values():
        assert len(set(known.values())) == len(CLIPS)
