"""The conditional writes that keep a stale coordinator, and a stale attempt, from committing.

And those that keep one request, sent twice, from being two jobs.
"""

from pydantic import BaseModel

from farm.errors import ConflictError
from farm.job import ClipResult
from farm.keys import COORDINATOR, result_key
from farm.store import Store


def take_fence(store: Store) -> int:
    """Count a new coordinator in the store; no two ever get the same number."""
    while True:
        stored = store.get(COORDINATOR)
        fence = int(stored.data) + 1 if stored else 1
        try:
            if stored is None:
                store.put(COORDINATOR, str(fence).encode(), if_none_match=True)
            else:
                store.put(COORDINATOR, str(fence).encode(), if_match=stored.etag)
        except ConflictError:
            continue
        return fence


def commit(store: Store, result: ClipResult, force: bool) -> ClipResult:
    """Write a clip's result where there is none, or over the one there was (`force`).

    Somebody else's, written first, stands: it has the same frames.
    """
    key = result_key(result.request.digest)
    data = result.model_dump_json().encode()
    former = store.get(key)
    try:
        if former is None:
            store.put(key, data, if_none_match=True)
        elif force:
            store.put(key, data, if_match=former.etag)
        else:
            return ClipResult.model_validate_json(former.data)
    except ConflictError:
        stored = store.get(key)
        assert stored is not None
        return ClipResult.model_validate_json(stored.data)
    return result


class Claim(BaseModel):
    """What an idempotency key names."""

    job: str
    at: float  # when it was first sent


def claim(store: Store, key: str, mine: Claim, lasts_s: float) -> Claim:
    """Name a job by a key of the store; the claim that stands, which may be an earlier one."""
    data = mine.model_dump_json().encode()
    while True:
        stored = store.get(key)
        if stored is not None:
            former = Claim.model_validate_json(stored.data)
            if former.at + lasts_s > mine.at:
                return former
        try:
            if stored is None:
                store.put(key, data, if_none_match=True)
            else:
                store.put(key, data, if_match=stored.etag)
        except ConflictError:
            continue
        return mine
