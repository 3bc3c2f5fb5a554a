"""What the store holds, and where.

pictures/DIGEST                     a picture file, by the sha256 of its bytes
jobs/ID.json                        the record of a job; written with compare-and-swap
open/ID                             of each job that is not finished: what a restart reads
idempotency/TENANT/DIGEST           the job that an idempotency key names; DIGEST is the key's
webhooks/ID/END                     of each job's end that somebody waits to be told of (`Owed`);
                                    END is when it was, in milliseconds
events/ID/SEQ.jsonl                 a job's event log; SEQ is the last entry in that object
checkpoints/DIGEST/STEP.safetensors latents of a clip being rendered
previews/DIGEST.webp                the last preview of a clip being rendered
clips/DIGEST/clip.json              a finished clip (`ClipResult`); written once
clips/DIGEST/ATTEMPT/video.mp4      what it names; beside it thumbnail.jpg and sprites.jpg.
                                    ATTEMPT is the fence of its coordinator, and a number
store.json                          the store's id, written once (`Identity`)
lease.json                          which process owns the store, and its clock (`lease.Record`)
coordinator.json                    the fence: how many coordinators there have been
"""

import hashlib

COORDINATOR = "coordinator.json"
LEASE = "lease.json"
OPEN = "open/"
JOBS = "jobs/"
CHECKPOINTS = "checkpoints/"
PREVIEWS = "previews/"
WEBHOOKS = "webhooks/"
ARTIFACTS = ("video.mp4", "thumbnail.jpg", "sprites.jpg")


def picture_key(digest: str) -> str:
    return f"pictures/{digest}"


def job_key(job: str) -> str:
    return f"{JOBS}{job}.json"


def open_key(job: str) -> str:
    return f"{OPEN}{job}"


def idempotency_key(tenant: str, key: str) -> str:
    return f"idempotency/{tenant}/{hashlib.sha256(key.encode()).hexdigest()}"


def webhook_key(job: str, end: int) -> str:
    return f"{WEBHOOKS}{job}/{end:013d}"


def events_prefix(job: str) -> str:
    return f"events/{job}/"


def events_key(job: str, last: int) -> str:
    return f"{events_prefix(job)}{last:08d}.jsonl"


def checkpoints_prefix(clip: str) -> str:
    return f"{CHECKPOINTS}{clip}/"


def checkpoint_key(clip: str, step: int) -> str:
    return f"{checkpoints_prefix(clip)}{step:04d}.safetensors"


def step_of(checkpoint: str) -> tuple[str, int]:
    """The clip and the step of a checkpoint's key."""
    _, clip, name = checkpoint.split("/")
    return clip, int(name.partition(".")[0])


def preview_key(clip: str) -> str:
    return f"{PREVIEWS}{clip}.webp"


def clip_of_preview(preview: str) -> str:
    """The clip of a preview's key."""
    return preview.removeprefix(PREVIEWS).removesuffix(".webp")


def clip_prefix(clip: str) -> str:
    return f"clips/{clip}/"


def result_key(clip: str) -> str:
    return f"{clip_prefix(clip)}clip.json"


def artifact_keys(clip: str, attempt: str) -> list[str]:
    """Of ARTIFACTS. `attempt` keeps what two of them write apart; only one is ever named."""
    return [f"{clip_prefix(clip)}{attempt}/{name}" for name in ARTIFACTS]
