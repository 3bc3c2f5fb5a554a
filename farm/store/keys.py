"""What the store holds, and where.

pictures/DIGEST                     a picture file, by the sha256 of its bytes
uses/DIGEST/ID.job                  empty, for each job that names the picture
pictures.json                       the pictures that were there before that index
jobs/ID.json                        the record of a job; written with compare-and-swap
open/ID                             of each job that is not finished: what a restart reads
tenants/of-TENANT/ID.job            empty, for each job: an index by tenant
tenants.json                        the jobs of farms before that index, by tenant
idempotency/TENANT/DIGEST           the job that an idempotency key names; DIGEST is the key's
webhooks/ID/END                     of each job's end that somebody waits to be told of (`Owed`);
                                    END is when it was, in milliseconds
events/ID/SEQ.jsonl                 a job's event log; SEQ is the last entry in that object
checkpoints/DIGEST/STEP.safetensors latents of a clip being rendered
previews/DIGEST.webp                the last preview of a clip being rendered
clips/DIGEST/clip.json              a finished clip (`ClipResult`); written once
clips/DIGEST/ATTEMPT/video.mp4      what it names; beside it thumbnail.jpg and sprites.jpg.
                                    ATTEMPT is the fence of its coordinator, and a number
answered/TENANT/DIGEST              of each clip that a job of the tenant's was answered with
store.json                          the store's id, written once (`Identity`)
lease.json                          which process owns the store, and its clock (`lease.Record`)
coordinator.json                    the fence: how many coordinators there have been
quarantine/KEY/DIGEST/object        what was under KEY and could not be read; beside it reason.json

Other names may be there too (`.DS_Store`, `.nfs0001`): what lists keys leaves those alone.
"""

import hashlib
import re
from typing import Annotated

from pydantic import AfterValidator

COORDINATOR = "coordinator.json"
LEASE = "lease.json"
PICTURES = "pictures/"
OLDER_PICTURES = "pictures.json"
OPEN = "open/"
JOBS = "jobs/"
TENANTS_WHOLE = "tenants.json"
CHECKPOINTS = "checkpoints/"
PREVIEWS = "previews/"
WEBHOOKS = "webhooks/"
QUARANTINE = "quarantine/"
_ID = r"[\w-][\w.-]{0,79}"
_NAME_BYTES = 200  # in UTF-8: a file's name has 255, and keys put something around it
_SHA256 = "[0-9a-f]{64}"
ARTIFACTS = ("video.mp4", "thumbnail.jpg", "sprites.jpg")


def check_name(text: str) -> str:
    """A job's id or a tenant's name, which are parts of keys; ValueError for what can be none.

    Without a dot in front: what such a file in a store is, is not the farm's.
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


def uses_prefix(picture: str) -> str:
    return f"uses/{picture}/"


def use_key(picture: str, job: str) -> str:
    return f"{uses_prefix(picture)}{job}.job"


def user_of(use: str) -> str | None:
    """The job of such a key."""
    return _part(rf"uses/{_SHA256}/({_ID})\.job", use)


def job_key(job: str) -> str:
    return f"{JOBS}{job}.json"


def job_of(key: str) -> str | None:
    """The job of a record's key."""
    return _part(rf"{JOBS}({_ID})\.json", key)


def open_job_of(key: str) -> str | None:
    """The job of an entry of the index of open ones."""
    return _part(rf"{OPEN}({_ID})", key)


def open_key(job: str) -> str:
    return f"{OPEN}{job}"


def tenant_prefix(tenant: str) -> str:
    return f"tenants/of-{tenant}/"


def tenant_key(tenant: str, job: str) -> str:
    return f"{tenant_prefix(tenant)}{job}.job"


def idempotency_key(tenant: str, key: str) -> str:
    return f"idempotency/{tenant}/{hashlib.sha256(key.encode()).hexdigest()}"


def webhook_key(job: str, end: int) -> str:
    return f"{WEBHOOKS}{job}/{end:013d}"


def is_webhook_key(key: str) -> bool:
    return re.fullmatch(rf"{WEBHOOKS}{_ID}/\d{{13,}}", key) is not None


def events_prefix(job: str) -> str:
    return f"events/{job}/"


def events_key(job: str, last: int) -> str:
    return f"{events_prefix(job)}{last:08d}.jsonl"


def last_entry_of(events: str) -> int | None:
    """The number of the last entry that is under a key of an event log."""
    found = _part(rf"events/{_ID}/(\d{{8,}})\.jsonl", events)
    return None if found is None else int(found)


def checkpoints_prefix(clip: str) -> str:
    return f"{CHECKPOINTS}{clip}/"


def checkpoint_key(clip: str, step: int) -> str:
    return f"{checkpoints_prefix(clip)}{step:04d}.safetensors"


def step_of(checkpoint: str) -> tuple[str, int] | None:
    """The clip and the step of a checkpoint's key."""
    found = re.fullmatch(rf"{CHECKPOINTS}({_SHA256})/(\d{{4}})\.safetensors", checkpoint, re.ASCII)
    return (found[1], int(found[2])) if found else None


def preview_key(clip: str) -> str:
    return f"{PREVIEWS}{clip}.webp"


def clip_of_preview(preview: str) -> str | None:
    """The clip of a preview's key."""
    return _part(rf"{PREVIEWS}({_SHA256})\.webp", preview)


def clip_prefix(clip: str) -> str:
    return f"clips/{clip}/"


def result_key(clip: str) -> str:
    return f"{clip_prefix(clip)}clip.json"


def answered_key(tenant: str, clip: str) -> str:
    return f"answered/{tenant}/{clip}"


def artifact_keys(clip: str, attempt: str) -> list[str]:
    """Of ARTIFACTS. `attempt` keeps what two of them write apart; only one is ever named."""
    return [f"{clip_prefix(clip)}{attempt}/{name}" for name in ARTIFACTS]


def quarantined_key(key: str, data: bytes, name: str) -> str:
    """Where an object that cannot be read is set aside; `name` tells its bytes from the reason."""
    return f"{QUARANTINE}{key}/{hashlib.sha256(data).hexdigest()[:16]}/{name}"


def _part(pattern: str, key: str) -> str | None:
    found = re.fullmatch(pattern, key)
    return found[1] if found else None
