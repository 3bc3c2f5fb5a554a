"""Which idle worker gets a task, and which others share it."""

from collections.abc import Hashable

from farm.model.plan import Kind, Stage, Task
from farm.scheduling.state import Reason, Run, Urgency, WorkerState
from farm.scheduling.worker_choice import PASSING, choose, choose_helpers

DENOISE = Task("latents/0002", Stage.DENOISE, span=(0, 2))
DECODE = Task("frames", Stage.DECODE, span=(0, 12), most=12, frame_bytes=10)


def run(model: str = "svd", last_renderer: str = "", **avoid: set[str]) -> Run:
    made = Run("clip", model, Urgency("acme", 0.0))
    made.last_renderer = last_renderer
    made.avoid = {DENOISE.key: avoid.get("denoise", set()), DECODE.key: avoid.get("decode", set())}
    return made


def idle(**names: str) -> dict[Hashable, dict[str, None]]:
    """Idle workers by the model they hold; the last to become idle comes last."""
    return {model: dict.fromkeys(text.split()) for model, text in names.items()}


def renderers(*names: str) -> dict[str, WorkerState]:
    return {name: WorkerState(name, Kind.RENDERER) for name in names}


def test_a_clip_stays_where_it_is() -> None:
    given = idle(svd="a b", xt="c")
    assert choose(run(last_renderer="a"), DENOISE, given, {}) == ("a", Reason.STAYS)
    assert choose(run(last_renderer="c"), DENOISE, given, {}) == (
        "b",
        Reason.MODEL,
    )  # it forgot the model
    assert choose(run(last_renderer="gone"), DENOISE, given, {}) == ("b", Reason.MODEL)
    failed = run(last_renderer="b", denoise={"b"})
    assert choose(failed, DENOISE, given, {}) == ("a", Reason.ELSEWHERE)


def test_only_denoising_stays() -> None:
    assert choose(run(last_renderer="a"), DECODE, idle(svd="a b"), {}) == ("b", Reason.MODEL)


def test_a_loaded_model_comes_before_the_next_in_order() -> None:
    assert choose(run("xt"), DENOISE, idle(svd="a b", xt="c"), {}) == ("c", Reason.MODEL)
    assert choose(run("lcm"), DENOISE, idle(svd="a b", xt="c"), {}) == ("b", Reason.NEXT)
    assert choose(run("lcm"), DENOISE, idle(svd="", xt="c"), {}) == ("c", Reason.NEXT)


def test_where_all_idle_ones_failed_it_waits_for_one_that_is_busy() -> None:
    failed = run(denoise={"a"})
    workers = renderers("a", "b")
    assert choose(failed, DENOISE, idle(svd="a"), workers) is None
    workers["b"].draining = True
    assert choose(failed, DENOISE, idle(svd="a"), workers) == ("a", Reason.ONLY)
    workers["b"] = WorkerState("b", Kind.DECODER)
    assert choose(failed, DENOISE, idle(svd="a"), workers) == ("a", Reason.ONLY)
    both = run(denoise={"a", "b"})
    found = choose(both, DENOISE, idle(other="", svd="a b"), renderers("a", "b"))
    assert found == ("b", Reason.ONLY)


def helpers(
    given: dict[Hashable, dict[str, None]],
    of: Run | None = None,
    task: Task = DECODE,
    allowed: int = 99,
    **memory: int | None,
) -> tuple[str, ...]:
    names = [name for names in given.values() for name in names]
    workers = {name: WorkerState(name, Kind.DECODER, memory.get(name)) for name in names}
    return choose_helpers(of or run(), task, "a", given, workers, allowed)


def test_those_with_the_model_help_first() -> None:
    assert helpers(idle(xt="c d", svd="a b")) == ("b", "c", "d")
    assert helpers(idle(xt="c d", svd="a b"), allowed=2) == ("b", "c")
    assert helpers(idle(xt="c d", svd="a b"), allowed=1) == ("b",)
    assert helpers(idle(xt="c d", svd="a b"), allowed=0) == ()
    assert helpers(idle(xt="c d")) == ("c", "d")


def test_a_task_is_shared_by_as_many_as_it_says() -> None:
    two = Task(DECODE.key, Stage.DECODE, span=(0, 12), most=2)
    alone = Task(DECODE.key, Stage.DECODE, span=(0, 12), most=1)
    assert helpers(idle(svd="a b c"), task=two) == ("b",)
    assert helpers(idle(svd="a b c"), task=alone) == ()


def test_who_failed_it_does_not_help() -> None:
    assert helpers(idle(svd="a b c"), run(decode={"b"})) == ("c",)


def test_a_task_that_broke_when_it_was_shared_is_not_shared_again() -> None:
    broken = run()
    broken.unshared.add(DECODE.key)
    assert helpers(idle(svd="a b c"), broken) == ()


def test_a_helper_holds_its_share_or_is_left_out() -> None:
    """Of 12 frames two hold 6 each, three hold 4, and `PASSING` more on the way; of 10 bytes."""
    third, half = (4 + PASSING) * 10, (6 + PASSING) * 10
    assert helpers(idle(svd="a b c"), b=third, c=third) == ("b", "c")
    assert helpers(idle(svd="a b c"), b=third - 1, c=half) == ("c",)
    assert helpers(idle(svd="a b c"), b=half, c=third - 1) == ("b",)
    assert helpers(idle(svd="a b c"), b=third - 1, c=half - 1) == ()
    assert helpers(idle(svd="a b c"), b=third - 1, c=None) == ("c",)
    late = Task(DECODE.key, Stage.DECODE, span=(12, 24), most=12, frame_bytes=10)
    assert helpers(idle(svd="a b c"), task=late, b=third, c=third) == ("b", "c")
    odd = Task(DECODE.key, Stage.DECODE, span=(0, 13), most=12, frame_bytes=10)
    assert helpers(idle(svd="a b c"), task=odd, b=third, c=half + 10) == ("c",)
