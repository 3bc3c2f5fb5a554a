"""What attempts leave in the store that nothing names any more, and when it goes."""

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
    """Delete checkpoints and preview of a clip that has ended, and what its attempts stored.

    kept: keys that its result names.
    """
    # Its worker may be writing the last checkpoint just now, after it was listed.
    keys = {checkpoint_key(clip, steps), preview_key(clip)}
    keys.update(key for attempt in attempts for key in artifact_keys(clip, attempt))
    try:
        keys.update(filter(step_of, store.list(checkpoints_prefix(clip))))
    except StoreError as error:
        log.warning("clip %s: its checkpoints stay: %s", clip[:12], error)
    clear(store, keys.difference(kept))


def earlier_attempts(store: Store, clip: str, fence: int) -> list[str]:
    """Attempts at a clip that coordinators before `fence` left something of.

    To be cleared once a later coordinator has committed the clip, and not before: until then an
    earlier one that is still alive may commit what it made.
    """
    prefix = clip_prefix(clip)
    names = {key[len(prefix) :].partition("/")[0] for key in store.list(prefix)}
    fences = [(name, name.partition("-")[0]) for name in sorted(names) if "-" in name]
    return [name for name, by in fences if by.isdecimal() and int(by) < fence]


def clear_orphans(store: Store, checkpoints: Iterable[str], clips: Collection[str]) -> None:
    """Delete the checkpoints and previews of clips that are not among those under way."""
    orphans = [key for key in checkpoints if (of := step_of(key)) and of[0] not in clips]
    try:
        previews = [key for key in store.list(PREVIEWS) if clip_of_preview(key)]
        orphans += [key for key in previews if clip_of_preview(key) not in clips]
    except StoreError as error:
        log.warning("previews that nobody needs stay: %s", error)
    clear(store, orphans)
    try:
        store.sweep()
    except StoreError as error:
        log.warning("what killed writers left stays: %s", error)


def clear(store: Store, keys: Iterable[str]) -> None:
    """Delete objects; what cannot be deleted stays, and is said."""
    for key in keys:
        try:
            store.delete(key)
        except StoreError as error:
            log.warning("left in the store: %s", error)
