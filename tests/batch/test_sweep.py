"""Sweeps: seeds, axes, combinations, and the titles of their clips."""

import argparse
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.batch.sweep import MAX_CLIPS, Sweep, parse_seeds, parse_sweep, title
from svd_engine.arguments import add_param_options, given_params
from svd_engine.params import RenderParams


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0", [0]), ("0-3", [0, 1, 2, 3]), ("5,1-2, 2", [5, 1, 2]), ("7-7", [7])],
)
def test_seeds(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-1", "1.5", "1-2-3", "0-99999999999"])
def test_bad_seeds(text: str) -> None:
    with pytest.raises(ValueError, match="--seeds"):
        parse_seeds(text)


def sweep(*arguments: str, seeds: str = "0") -> Sweep:
    """The sweep of a command line."""
    parser = argparse.ArgumentParser()
    add_param_options(parser, leave_out=("seed",), several=True)
    return parse_sweep(given_params(parser.parse_args(arguments)), seeds)


def test_a_sweep_is_every_combination_in_order() -> None:
    swept = sweep("--fit", "crop,pad", "--steps", "5", "--fps=7, 12,7", seeds="3-4")
    assert swept.axes == (
        ("seed", (3, 4)),
        ("num_inference_steps", (5,)),
        ("fps", (7, 12)),
        ("fit", ("crop", "pad")),
    )
    assert swept.varied == ("seed", "fps", "fit")
    clips = swept.combinations()
    assert len(clips) == 8
    assert clips[1] == {"seed": 3, "num_inference_steps": 5, "fps": 7, "fit": "pad"}
    assert swept.variation(clips[1]) == {"seed": 3, "fps": 7, "fit": "pad"}
    assert all(RenderParams(**clip) for clip in clips)
    tiers = sweep("--tier", "exact,fast,reuse")
    steps = [RenderParams(**clip).steps for clip in tiers.combinations()]
    assert steps == [25, 10, 25]
    plain = sweep("--sigmas", "14.5,1,0")
    assert plain.combinations() == [{"seed": 0, "sigmas": (14.5, 1.0, 0.0)}]
    assert plain.varied == ("seed",)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--fps", "7,900"], "--fps: .*240, got 900"),
        (["--tier", "exact,fast", "--sigmas", "2,0"], "--tier: the tier fast has sigmas of its"),
        (["--tier", "reuse", "--steps", "9,2"], "--reuse-interval: must be less than .* 2; got 2"),
        (
            ["--motion-bucket-id", "40,,200"],
            "--motion-bucket-id: a value is missing, got '40,,200'",
        ),
        (["--fit", "crop,squash"], "--fit: .*got 'squash'"),
        (["--sigmas", "1,2"], "--sigmas: .*fall"),
        (["--sigmas", "2,1", "--steps", "5,6"], "--num-inference-steps: .*--sigmas"),
        (["--fps", ",".join(map(str, range(1, 101))), "--motion-bucket-id", "1,2"], "200000 clips"),
    ],
)
def test_wrong_sweeps(arguments: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        sweep(*arguments, seeds="0-999")
    assert MAX_CLIPS == 100_000


def test_a_rows_own_parameters_do_not_vary() -> None:
    swept = sweep("--fps", "7,12", "--steps", "5,6", seeds="0-1")
    pinned = swept.pin({"fps": 9, "motion_bucket_id": 40})
    assert pinned.varied == ("seed", "num_inference_steps")
    assert {(c["fps"], c["motion_bucket_id"]) for c in pinned.combinations()} == {(9, 40)}
    assert len(pinned.combinations()) == 4
    assert swept.pin({"seed": 8}).variation(swept.pin({"seed": 8}).combinations()[0])["seed"] == 8
    assert swept.pin({}) == swept
    # Steps and sigmas: the row's win, whichever of the two it has.
    assert "num_inference_steps" not in dict(swept.pin({"sigmas": (2.0, 1.0)}).axes)
    assert "sigmas" not in dict(sweep("--sigmas", "2,1").pin({"num_inference_steps": 3}).axes)


def test_a_row_that_contradicts_the_sweep_is_refused() -> None:
    swept = sweep("--tier", "exact,fast")
    assert swept.pin({"fps": 9}).pin({"num_inference_steps": 3})
    with pytest.raises(ValueError, match="--tier: the tier fast has sigmas of its own"):
        swept.pin({"sigmas": (2.0, 1.0)})
    with pytest.raises(ValueError, match=r"--reuse-interval: .*the tier exact"):
        swept.pin({"reuse_interval": 2})


def test_titles_are_short() -> None:
    assert title("cat", {"seed": 0}) == "cat-seed0"
    assert title("cat", {"seed": 0, "motion_bucket_id": 40}) == "cat-seed0-motion40"
    every = {"seed": 1, "max_guidance_scale": 3.0, "noise_aug_strength": 1e-05, "fit": "crop"}
    assert title("cat", {"seed": 0, "some_flag": True}) == "cat-seed0-some_flagtrue"
    assert title("cat", every) == "cat-seed1-maxguidance3-noise1e-05-fitcrop"


names = st.text("cat-seed0fps7", min_size=1, max_size=12)
variations = st.fixed_dictionaries(
    {"seed": st.integers(0, 20)},
    optional={
        "width": st.integers(8, 90),
        "num_frames": st.integers(1, 90),
        "max_guidance_scale": st.floats(0, 1000),
        "fps": st.integers(1, 90),
        "noise_aug_strength": st.floats(0, 1e-3),
        "fit": st.sampled_from(["stretch", "crop", "pad"]),
    },
).map(lambda given: dict(sorted(given.items(), key=lambda item: (item[0] != "seed", item[0]))))


@given(first=st.tuples(names, variations), other=st.tuples(names, variations))
def test_no_two_clips_share_a_title(first: Any, other: Any) -> None:
    assert (title(*first) == title(*other)) == (first == other)
    assert "/" not in title(*first)


def test_known_mistakes_are_swept_each_set_as_one() -> None:
    swept = sweep("--deviations", "norm_eps+sine_first,fps_not_reduced")
    assert [title("cat", swept.variation(c)) for c in swept.combinations()] == [
        "cat-seed0-deviationssine_first+norm_eps",
        "cat-seed0-deviationsfps_not_reduced",
    ]
