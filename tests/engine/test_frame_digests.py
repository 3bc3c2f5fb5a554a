"""Pixels change with NUMERICS, and with nothing else.

The farm names its results by NUMERICS: whoever changes a pixel and leaves the number as it is has
two farms give different frames under one name. Parity tests cannot see it, since a change of the
last bit is within their tolerances, so frames are held by their digests. These are of one kind of
processor and one version of torch: other instructions add up in another order. A kind that is not
in the table cannot be judged, and is skipped; one is enough to catch a change of the code, because
the code is the same everywhere. Digests are of frames in whole levels and not of latents, for these
are what is stored; a change so small that no level of any clip changes may pass.
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
