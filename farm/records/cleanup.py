"""Deletion of objects that nothing in the store refers to any more."""

import logging
from collections.abc import Collection, Iterable

from farm.errors import StoreError
from farm.store import Store
from farm.store.keys import (
    PREVIEWS,
    artifact_keys,
    checkpoint_key,
    checkpoints_prefix,
    clip_of_preview,
    clip_prefix,
    preview_key,
    step_of,
)

log = logging.getLogger("farm")


def clear_clip(
    store: Store, clip: str, steps: int, attempts: Iterable[str], kept: Collection[str] = ()
) -> None:
    """Delete the checkpoints, the preview and the attempts' artifacts of a clip that has ended.

    kept: the keys that the clip's result names.
    """
    # The last checkpoint is added unseen: a worker may write it after the listing below.
    keys = {checkpoint_key(clip, steps), preview_key(clip)}
    keys.update(key for attempt in attempts for key in artifact_keys(clip, attempt))
    try:
        keys.update(filter(step_of, store.list(checkpoints_prefix(clip))))
    except StoreError as error:
        log.warning("clip %s: cannot delete its checkpoints: %s", clip[:12], error)
    clear(store, keys.difference(kept))


def earlier_attempts(store: Store, clip: str, fence: int) -> list[str]:
    """The attempts at a clip by coordinators with earlier fencing tokens than `fence`.

    Clear their artifacts only after the clip is committed. Until then an earlier coordinator that
    is still alive may commit one of them.
    """
    prefix = clip_prefix(clip)
    names = {key[len(prefix) :].partition("/")[0] for key in store.list(prefix)}
    fences = [(name, name.partition("-")[0]) for name in sorted(names) if "-" in name]
    return [name for name, by in fences if by.isdecimal() and int(by) < fence]


def clear_orphans(store: Store, checkpoints: Iterable[str], clips: Collection[str]) -> None:
    """Delete the checkpoints and previews of all clips but `clips`, which are being rendered.

    checkpoints: the keys of all checkpoints in the store.
    """
    orphans = [key for key in checkpoints if (of := step_of(key)) and of[0] not in clips]
    try:
        previews = [key for key in store.list(PREVIEWS) if clip_of_preview(key)]
        orphans += [key for key in previews if clip_of_preview(key) not in clips]
    except StoreError as error:
        log.warning("cannot delete old previews: %s", error)
    clear(store, orphans)
    try:
        store.sweep()
    except StoreError as error:
        log.warning("cannot delete temporary files of killed writers: %s", error)


def clear(store: Store, keys: Iterable[str]) -> None:
    """Delete objects; log those that cannot be deleted."""
    for key in keys:
        try:
            store.delete(key)
        except StoreError as error:
            log.warning("cannot clean up: %s", error)
