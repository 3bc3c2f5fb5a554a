"""A batch's messages: before it starts, on the way, and when it is stopped."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.batch import progress
from farm.batch import runner as batch_run
from farm.batch.progress import Reporter
from farm.client.farm import Farm
from farm.client.progress_bar import open_bar
from farm.coordinator.views import progress_of
from farm.model.job import JobView, Progress, State
from farm.model.plan import Stage
from farm.model.wire import Video, video_of
from farm.quantities import counted, lasting
from farm.scheduling.estimate import Pace
from tests.batch.test_batch_outputs import row
from tests.conftest import draw_picture
from tests.model.test_job import job
from tests.model.test_plan import request
from tests.support.inline_batch import inline_batch, run
from tests.support.inline_farm import inline  # noqa: F401 - a fixture


@pytest.fixture
def farm(tmp_path: Path, inline: Any) -> Iterator[Farm]:  # noqa: F811
    with inline_batch(tmp_path / "store") as farm:
        yield farm


def test_counts_and_times() -> None:
    assert [counted(n, "clip") for n in (0, 1, 2)] == ["0 clips", "1 clip", "2 clips"]
    seconds = (0.2, 80, 100, 3540, 3600, 12_000)
    assert [*map(lasting, seconds)] == ["1 s", "80 s", "2 min", "59 min", "1 h", "3 h 20 min"]


def test_the_pace_of_whole_clips_tells_of_others() -> None:
    pace, clip = Pace(), request()
    assert pace.left(clip) is None
    pace.observe_clip(clip, dict.fromkeys(Stage, 2.0))
    assert pace.left(clip) == pytest.approx(8.0)
    params = clip.params.model_copy(update={"num_inference_steps": 2 * clip.params.steps})
    assert pace.left(clip.model_copy(update={"params": params})) == pytest.approx(10.0)


def test_a_dry_run_tells_how_long_by_what_was_timed(
    farm: Farm, tmp_path: Path, capsys: Any
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    draw_picture(40, 30).save(folder / "a.png")
    assert run(folder, "--out", out, "--dry-run") == 0
    assert (
        "1 clip, 0 done; 1 to render, 25 UNet steps; the time is unknown" in capsys.readouterr().out
    )
    assert run(folder, "--out", out) == 0
    assert "1 of 1 clip is done" in capsys.readouterr().out
    (folder / "b.png").write_bytes(b"no picture")
    (folder / ".hidden.png").write_bytes(b"x")
    (out / "a-seed0.mp4").write_bytes(b"a")
    assert run(folder, "--out", out, "--seeds", "0-1", "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "a-seed0.mp4 has 1 byte of 7: to be fetched again" in lines[0]
    assert lines[1].endswith(": 25 steps")
    assert "would fail: the file is not a picture" in lines[2]
    assert lines[-2].endswith(".hidden.png: hidden")
    assert lines[-1].startswith("4 clips, 0 done; 2 to render, 50 UNet steps; 2 would fail; about ")
    assert lines[-1].endswith(" s on 1 worker")


def test_detach_hands_over_and_a_later_run_fetches(farm: Farm, tmp_path: Path, capsys: Any) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    draw_picture(40, 30).save(folder / "a.png")
    (folder / "b.png").write_bytes(b"no picture")
    assert run(folder, "--out", out, "--detach") == 1  # one was not taken
    captured = capsys.readouterr()
    assert captured.out.startswith("1 clip submitted, 0 done already; the farm keeps running.\n")
    assert "[1/2] b-seed0: the file is not a picture" in captured.err
    assert {path.name for path in out.iterdir() if not path.name.startswith(".")} == {
        "summary.json"
    }
    assert run(folder, "--out", out) == 1
    assert "1 of 2 clips are done" in capsys.readouterr().out
    assert run(folder / "a.png", "--out", out, "--detach") == 0
    assert "0 clips submitted, 1 done already" in capsys.readouterr().out


@given(steps=st.lists(st.integers(0, 25)), ends=st.sampled_from(["done", "failed", "cancelled"]))
def test_progress_only_rises_and_is_whole_when_all_is(steps: list[int], ends: str) -> None:
    reporter = Reporter(2, 0, 50, terminal=False)
    steps_done = [0]
    for step in steps:
        view = SimpleNamespace(progress=Progress(step=step, steps=25, chunks=1))
        reporter.progress("cat-seed0", view)  # type: ignore[arg-type]
        steps_done.append(reporter._steps_done)
    assert steps_done == sorted(steps_done)
    assert max(steps_done) <= 25
    assert reporter._step_bar.total == 54  # decoding and storing are in it from the start
    for seed in (0, 1):  # the second was in the store already
        assert reporter._steps_done < 50
        reporter.finished(row("cat", seed, status=ends))
    assert reporter._steps_done == 50


def test_what_a_lost_attempt_did_still_counts() -> None:
    """It is done again, and nobody is told that there is less of it."""
    asked = job(seed=1).request
    pace = Pace()
    common = {"stage": Stage.DENOISE, "chunks": 0, "running": {}, "request": asked}
    lost = SimpleNamespace(**common, step=5, furthest=(12, 1))
    new = SimpleNamespace(**common, step=14, furthest=(12, 0))

    def progress(*clips: SimpleNamespace) -> Progress:
        sharing: Any = SimpleNamespace(
            under_way=lambda _: clips,
            why_blocked=lambda _: "",
            dispatcher=SimpleNamespace(pace=pace),
        )
        return progress_of(job(), sharing, None, with_eta=False)  # type: ignore[arg-type]

    both = progress(lost, new)
    assert (both.step, both.chunk, both.share) == (12 + 14, 1, None)  # nothing was timed
    pace.observe_clip(asked, {"encode": 1.0, "denoise": 25.0, "decode": 13.0, "mux": 1.0})
    share = progress(lost).share  # all is done but 13 of 25 steps, and the writing
    assert share == pytest.approx(1 - (13 + 1) / 40, abs=1e-3)


@given(steps=st.lists(st.integers(0, 25), min_size=1))
def test_a_bar_only_rises_and_is_whole_when_its_job_is(steps: list[int]) -> None:
    def video(step: int, state: State) -> Video:
        return video_of(
            JobView(job=job(state=state), progress=Progress(step=step, steps=25, chunks=1))
        )

    shown: list[tuple[int, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        bar = SimpleNamespace(n=0, total=25, close=lambda: None)
        bar.set_description_str = lambda _: shown.append((bar.n, bar.total))
        patch.setattr("farm.client.progress_bar.tqdm", lambda **_: bar)
        with open_bar(video(0, State.RUNNING), shown=True) as show:
            for step in steps:
                show(video(step, State.RUNNING))
            assert shown == sorted(shown)
            assert bar.n < 27
            show(video(25, State.COMPLETED))
    assert shown[-1] == (27, 27)


@pytest.mark.parametrize(
    ("ends", "answer", "message"),
    [
        (True, "", "stopped: the farm was this program's own; run it again to continue where"),
        (True, "s", "stopped: "),
        (True, "c", "cancelled; "),
        (False, "", "detached; "),
        (False, "c", "cancelled; "),
    ],
)
def test_what_ctrl_c_says_is_true(
    ends: bool, answer: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or answer)
    farm = SimpleNamespace(store=lambda: None)
    batch_run.BatchRun(farm, None, None).interrupted(ends)  # type: ignore[arg-type]
    assert ("detach" in asked[0]) is not ends
    assert message in capsys.readouterr().err


def test_a_log_counts_in_the_right_number(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", -1.0)
    reporter = Reporter(1, 0, 1, terminal=False)
    job = SimpleNamespace(state=State.RUNNING)
    view = SimpleNamespace(progress=Progress(step=1, steps=1, chunks=1), job=job)
    reporter.progress("a", view)  # type: ignore[arg-type]
    assert "in total 0 of 1 clip, 1 of 1 step" in capsys.readouterr().err
