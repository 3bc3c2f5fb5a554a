"""The layout of the store: the key of every object, and the functions that build and parse keys.

pictures/DIGEST                     a picture file, named by the sha256 of its bytes
uses/DIGEST/ID.job                  index of pictures by job: one empty object per job that uses it
pictures.json                       the pictures that are older than the index `uses/`
jobs/ID.json                        a job's record; written with compare-and-swap
open/ID                             index of unfinished jobs, which a restarted farm reads
tenants/of-TENANT/ID.job            index of jobs by tenant: one empty object per job
tenants.json                        the jobs that are older than the index `tenants/`, by tenant
idempotency/TENANT/DIGEST           the job of an idempotency key; DIGEST is that key's sha256
webhooks/ID/END                     an event to deliver for a job that has ended; END is
                                    the time of the end, in milliseconds since 1970
events/ID/SEQ.jsonl                 a piece of a job's event log; SEQ is its last entry's number
checkpoints/DIGEST/STEP.safetensors latents of a clip that is being rendered
previews/DIGEST.webp                the latest preview of a clip that is being rendered
clips/DIGEST/clip.json              a finished clip (`ClipResult`); written once
clips/DIGEST/ATTEMPT/video.mp4      the video that `clip.json` names, beside the other `ARTIFACTS`.
                                    ATTEMPT is the coordinator's fencing token and a counter
answers/DIGEST/TENANT/ID.job        index of clips by job: an empty object per ended job that has
                                    the clip
answers.json                        the coordinators that wrote this index (`Indexed`)
usage/DAY/END-ID.json               what a deleted job took (`DeletedJob`); END as in webhooks/
usage/DAY.json                      what deleted jobs took that ended on this day (`DayUsage`)
answered/TENANT/DIGEST              in stores of earlier versions, in place of that index
audit/DAY/START-NUMBER.jsonl        lines of the audit log; START is that of the coordinator that
                                    wrote them, in milliseconds since 1970
store.json                          the store's id, written once (`Identity`)
lease.json                          the process that owns the store, and its clock (`LeaseRecord`)
coordinator.json                    the last fencing token: how many coordinators there have been
quarantine/KEY/DIGEST/object        an unreadable object that was found at KEY, beside reason.json

A store may also contain names that are not the farm's (`.DS_Store`, `.nfs0001`). Code that lists
keys ignores them.
"""

import hashlib
import re
from datetime import date
from typing import Annotated

from pydantic import AfterValidator

from farm.artifacts import ARTIFACTS

COORDINATOR = "coordinator.json"
LEASE = "lease.json"
PICTURES = "pictures/"
OLDER_PICTURES = "pictures.json"
USES = "uses/"
OPEN = "open/"
JOBS = "jobs/"
TENANTS_WHOLE = "tenants.json"
CHECKPOINTS = "checkpoints/"
PREVIEWS = "previews/"
WEBHOOKS = "webhooks/"
QUARANTINE = "quarantine/"
AUDIT = "audit/"
CLIPS = "clips/"
ANSWERS = "answers/"
INDEXED = "answers.json"
ANSWERED = "answered/"
TENANTS = "tenants/"
EVENTS = "events/"
CLAIMS = "idempotency/"
USAGE = "usage/"
_ID = r"[\w-][\w.-]{0,79}"
_NAME_BYTES = 200  # in UTF-8; a file name may have 255 bytes, and keys add a prefix or a suffix
_SHA256 = "[0-9a-f]{64}"
_DAY = r"\d{4}-\d\d-\d\d"


def check_name(text: str) -> str:
    """Return a job's id or a tenant's name if it may be part of a key; otherwise raise ValueError.

    A name may not begin with a dot, because the farm ignores hidden files in a store.
    """
    if not re.fullmatch(_ID, text) or len(text.encode(errors="replace")) > _NAME_BYTES:
        raise ValueError(
            "a name is 1 to 80 letters, digits, _, - and dots (at most 200 bytes), and begins with "
            f"no dot; got {text!r}"
        )
    return text


Name = Annotated[str, AfterValidator(check_name)]


def picture_key(digest: str) -> str:
    return f"{PICTURES}{digest}"


def picture_of(key: str) -> str | None:
    """The digest of a picture's key."""
    return _part(rf"{PICTURES}({_SHA256})", key)


def uses_prefix(picture: str) -> str:
    return f"{USES}{picture}/"


def use_key(picture: str, job: str) -> str:
    return f"{uses_prefix(picture)}{job}.job"


def user_of(use: str) -> str | None:
    """The job in a key made by `use_key`; None for any other key."""
    return _part(rf"{USES}{_SHA256}/({_ID})\.job", use)


def job_key(job: str) -> str:
    return f"{JOBS}{job}.json"


def job_of(key: str) -> str | None:
    """The job in a key made by `job_key`; None for any other key."""
    return _part(rf"{JOBS}({_ID})\.json", key)


def open_job_of(key: str) -> str | None:
    """The job in a key made by `open_key`; None for any other key."""
    return _part(rf"{OPEN}({_ID})", key)


def open_key(job: str) -> str:
    return f"{OPEN}{job}"


def tenant_prefix(tenant: str) -> str:
    return f"{TENANTS}of-{tenant}/"


def tenant_key(tenant: str, job: str) -> str:
    return f"{tenant_prefix(tenant)}{job}.job"


def idempotency_key(tenant: str, key: str) -> str:
    return f"{CLAIMS}{tenant}/{hashlib.sha256(key.encode()).hexdigest()}"


def is_claim_key(key: str) -> bool:
    return re.fullmatch(rf"{CLAIMS}{_ID}/{_SHA256}", key) is not None


def day_usage_key(day: str) -> str:
    return f"{USAGE}{day}.json"


def deleted_job_key(day: str, end: int, job: str) -> str:
    return f"{USAGE}{day}/{end:013d}-{job}.json"


def is_day_usage_key(key: str) -> bool:
    return re.fullmatch(rf"{USAGE}{_DAY}\.json", key) is not None


def deleted_job_of(key: str) -> str | None:
    """The job in a key made by `deleted_job_key`; None for any other key."""
    return _part(rf"{USAGE}{_DAY}/\d{{13,}}-({_ID})\.json", key)


def webhook_key(job: str, end: int) -> str:
    return f"{WEBHOOKS}{job}/{end:013d}"


def is_webhook_key(key: str) -> bool:
    return re.fullmatch(rf"{WEBHOOKS}{_ID}/\d{{13,}}", key) is not None


def events_prefix(job: str) -> str:
    return f"{EVENTS}{job}/"


def events_key(job: str, last: int) -> str:
    return f"{events_prefix(job)}{last:08d}.jsonl"


def last_entry_of(events: str) -> int | None:
    """The last entry's number in a key made by `events_key`; None for any other key."""
    found = _part(rf"{EVENTS}{_ID}/(\d{{8,}})\.jsonl", events)
    return None if found is None else int(found)


def checkpoints_prefix(clip: str) -> str:
    return f"{CHECKPOINTS}{clip}/"


def checkpoint_key(clip: str, step: int) -> str:
    return f"{checkpoints_prefix(clip)}{step:04d}.safetensors"


def step_of(checkpoint: str) -> tuple[str, int] | None:
    """The clip and the step in a key made by `checkpoint_key`; None for any other key."""
    found = re.fullmatch(rf"{CHECKPOINTS}({_SHA256})/(\d{{4}})\.safetensors", checkpoint, re.ASCII)
    return (found[1], int(found[2])) if found else None


def preview_key(clip: str) -> str:
    return f"{PREVIEWS}{clip}.webp"


def clip_of_preview(preview: str) -> str | None:
    """The clip in a key made by `preview_key`; None for any other key."""
    return _part(rf"{PREVIEWS}({_SHA256})\.webp", preview)


def clip_prefix(clip: str) -> str:
    return f"{CLIPS}{clip}/"


def clip_of(key: str) -> str | None:
    """The clip that an object below `clips/` is of; None for any other key."""
    return _part(rf"{CLIPS}({_SHA256})/.+", key)


def attempt_prefix(artifact: str) -> str:
    """The part of an artifact's key that all artifacts of its attempt have in common."""
    return f"{artifact.rpartition('/')[0]}/"


def clip_of_attempt(prefix: str) -> str | None:
    """The clip of a result of `attempt_prefix`; None for the prefix of any other key."""
    return _part(rf"{CLIPS}({_SHA256})/[^/]+/", prefix)


def result_key(clip: str) -> str:
    return f"{clip_prefix(clip)}clip.json"


def answers_prefix(clip: str, tenant: str | None = None) -> str:
    return f"{ANSWERS}{clip}/" if tenant is None else f"{ANSWERS}{clip}/{tenant}/"


def answer_key(clip: str, tenant: str, job: str) -> str:
    return f"{answers_prefix(clip, tenant)}{job}.job"


def answered_key(tenant: str, clip: str) -> str:
    return f"{ANSWERED}{tenant}/{clip}"


def answered_clip(marker: str) -> str | None:
    """The clip in a key made by `answered_key`; None for any other key."""
    return _part(rf"{ANSWERED}{_ID}/({_SHA256})", marker)


def owner_of(key: str) -> str | None:
    """The job that an object is only there for: its record, log, or an entry of an index."""
    if key.startswith(JOBS):
        return job_of(key)
    if key.startswith(EVENTS):
        return _part(rf"{EVENTS}({_ID})/\d{{8,}}\.jsonl", key)
    return _part(
        rf"(?:{USES}{_SHA256}|{TENANTS}of-{_ID}|{ANSWERS}{_SHA256}/{_ID})/({_ID})\.job", key
    )


def artifact_keys(clip: str, attempt: str) -> list[str]:
    """The keys under which an attempt stores its artifacts; a result names those of one attempt."""
    return [f"{clip_prefix(clip)}{attempt}/{artifact.file}" for artifact in ARTIFACTS.values()]


def audit_key(day: date, began_ms: int, number: int) -> str:
    return f"{AUDIT}{day}/{began_ms:013d}-{number:06d}.jsonl"


def day_of_audit(key: str) -> date | None:
    """The day in a key made by `audit_key`; None for any other key."""
    found = _part(rf"{AUDIT}(\d{{4}}-\d\d-\d\d)/\d{{13,}}-\d{{6,}}\.jsonl", key)
    try:
        return date.fromisoformat(found) if found else None
    except ValueError:
        return None


def quarantined_key(key: str, data: bytes, name: str) -> str:
    """The key that keeps the unreadable `data` of `key`: `name` is `object` or `reason.json`."""
    return f"{QUARANTINE}{key}/{hashlib.sha256(data).hexdigest()[:16]}/{name}"


def _part(pattern: str, key: str) -> str | None:
    found = re.fullmatch(pattern, key)
    return found[1] if found else None
