"""What attempts leave behind is deleted, unless something still refers to it."""

from pathlib import Path

import pytest

from farm.errors import StoreError
from farm.records.cleanup import clear_clip, clear_orphans, earlier_attempts
from farm.store import Store, open_store
from farm.store.keys import artifact_keys, checkpoint_key, preview_key, result_key

CLIP, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store(str(tmp_path))
    for clip in (CLIP, OTHER):
        keys = [key for attempt in ("3-1", "3-20", "12-4") for key in artifact_keys(clip, attempt)]
        checkpoints = checkpoint_key(clip, 5), checkpoint_key(clip, 10)
        for key in (*keys, *checkpoints, preview_key(clip), result_key(clip)):
            store.put(key, b"x")
    return store


def left(store: Store, clip: str) -> set[str]:
    return {
        key
        for folder in ("clips/", "checkpoints/", "previews/")
        for key in store.list(folder)
        if clip in key
    }


def test_a_clip_that_ended_keeps_what_its_result_names(store: Store) -> None:
    others, kept = left(store, OTHER), artifact_keys(CLIP, "12-4")
    clear_clip(store, CLIP, 25, ["3-20", "12-4", "12-5"], kept)
    assert left(store, CLIP) == {*kept, *artifact_keys(CLIP, "3-1"), result_key(CLIP)}
    assert left(store, OTHER) == others


def test_earlier_attempts_are_those_of_earlier_coordinators(store: Store) -> None:
    assert earlier_attempts(store, CLIP, 12) == ["3-1", "3-20"]
    assert earlier_attempts(store, CLIP, 13) == ["12-4", "3-1", "3-20"]
    assert earlier_attempts(store, CLIP, 3) == []


def test_orphans_are_of_clips_that_are_not_under_way(store: Store) -> None:
    checkpoints = list(store.list("checkpoints/"))
    clear_orphans(store, checkpoints, {OTHER})
    assert list(store.list("checkpoints/")) == [key for key in checkpoints if OTHER in key]
    assert list(store.list("previews/")) == [preview_key(OTHER)]


def test_a_store_that_refuses_is_no_error(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise StoreError("no permission")

    monkeypatch.setattr(type(store), "delete", refuse)
    clear_clip(store, CLIP, 25, ["3-1"])
    assert "cannot clean up: no permission" in caplog.text
