"""The index of clips by job: it says which ended jobs have a clip, so that one can be deleted.

It has an empty object for each clip of each ended job, which the coordinator writes before it
forgets the job. Versions without the index may have owned the store before, and may own it again:
`answers.json` says since when all coordinators have written it. Which jobs have the clips of
earlier ones is only known once all records are read, as `farm/records/inventory.py` does.
"""

from farm.model.job import JobRecord
from farm.records.cleanup import earlier_attempts
from farm.store import Store
from farm.store.keys import (
    INDEXED,
    answer_key,
    answered_key,
    answers_prefix,
    clip_prefix,
    job_key,
    owner_of,
    result_key,
)
from farm.store.quarantine import get_record
from farm.store.records import Record


class Indexed(Record):
    """The coordinators, by their fencing tokens, that wrote the index without a gap."""

    since: int
    last: int

    @property
    def own_key(self) -> str:
        return INDEXED


def indexed_since(store: Store, fence: int) -> int:
    """Note that this coordinator writes the index; returns since which one all have written it.

    Call it before any job ends. Raises StoreError.
    """
    stored = get_record(store, Indexed, INDEXED)
    gapless = stored is not None and stored[0].last == fence - 1
    since = stored[0].since if stored and gapless else fence
    store.put(INDEXED, Indexed(since=since, last=fence).model_dump_json().encode())
    return since


def answer_keys(job: JobRecord) -> list[str]:
    """The entries of a job's clips."""
    clips = {result.clip for result in job.results}
    return [answer_key(clip, job.tenant, job.id) for clip in clips if clip]


def was_answer(store: Store, tenant: str, clip: str) -> bool:
    """Whether an ended job of the tenant has the clip."""
    entries = store.list(answers_prefix(clip, tenant))
    return next(entries, None) is not None or store.exists(answered_key(tenant, clip))


def delete_clip(store: Store, clip: str, since: int) -> bool:
    """Delete a clip unless an ended job has it; returns whether it is gone.

    Call it only while no open job wants the clip. since: the result of `indexed_since`; a clip with
    artifacts of earlier coordinators stays, because the index may lack some of its jobs.
    """
    for entry in list(store.list(answers_prefix(clip))):
        job = owner_of(entry)
        if job is None or store.exists(job_key(job)):
            return False
        store.delete(entry)  # of a job that was deleted
    if earlier_attempts(store, clip, since):
        return False
    store.delete(result_key(clip))  # first, so that it never names an artifact that is gone
    for key in list(store.list(clip_prefix(clip))):
        store.delete(key)
    return True
