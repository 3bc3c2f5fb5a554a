"""Requests of several videos, and the clips among them."""

from hypothesis import given
from hypothesis import strategies as st

from farm.model.request import RenderRequest
from tests.model.test_plan import A, B, request

SEEDS = st.integers(0, 8)
REQUESTS = st.builds(
    request,
    seed=SEEDS,
    num_videos=st.integers(1, 4),
    picture=st.sampled_from([A, B]),
    fps=st.sampled_from([7, 8]),
)


@given(REQUESTS, REQUESTS)
def test_a_request_includes_just_its_clips(asked: RenderRequest, other: RenderRequest) -> None:
    digests = {clip.digest for clip in asked.clips()}
    for clip in (*asked.clips(), *other.clips()):
        assert asked.includes(clip) == (clip.digest in digests)
