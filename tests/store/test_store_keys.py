"""The names that objects have in a store: a change of one loses what is there already."""

from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest

from farm.store import keys

CLIP, PICTURE = "ab" * 32, "cd" * 32
NAMES: list[tuple[Callable[..., str], tuple[Any, ...], str]] = [
    (keys.picture_key, (PICTURE,), f"pictures/{PICTURE}"),
    (keys.uses_prefix, (PICTURE,), f"uses/{PICTURE}/"),
    (keys.use_key, (PICTURE, "job-1"), f"uses/{PICTURE}/job-1.job"),
    (keys.job_key, ("job-1",), "jobs/job-1.json"),
    (keys.open_key, ("job-1",), "open/job-1"),
    (keys.tenant_prefix, ("acme",), "tenants/of-acme/"),
    (keys.tenant_key, ("acme", "job-1"), "tenants/of-acme/job-1.job"),
    (
        keys.idempotency_key,
        ("acme", "né"),
        f"idempotency/acme/{sha256('né'.encode()).hexdigest()}",
    ),
    (keys.webhook_key, ("job-1", 1234), "webhooks/job-1/0000000001234"),
    (keys.events_prefix, ("job-1",), "events/job-1/"),
    (keys.events_key, ("job-1", 7), "events/job-1/00000007.jsonl"),
    (keys.checkpoints_prefix, (CLIP,), f"checkpoints/{CLIP}/"),
    (keys.checkpoint_key, (CLIP, 7), f"checkpoints/{CLIP}/0007.safetensors"),
    (keys.preview_key, (CLIP,), f"previews/{CLIP}.webp"),
    (keys.clip_prefix, (CLIP,), f"clips/{CLIP}/"),
    (keys.result_key, (CLIP,), f"clips/{CLIP}/clip.json"),
    (keys.answer_key, (CLIP, "acme", "job-1"), f"answers/{CLIP}/acme/job-1.job"),
    (keys.answers_prefix, (CLIP,), f"answers/{CLIP}/"),
    (keys.attempt_prefix, (f"clips/{CLIP}/3-1/video.mp4",), f"clips/{CLIP}/3-1/"),
    (keys.answered_key, ("acme", CLIP), f"answered/acme/{CLIP}"),
    (
        keys.quarantined_key,
        ("jobs/x.json", b"", "object"),
        "quarantine/jobs/x.json/e3b0c44298fc1c14/object",
    ),
]


@pytest.mark.parametrize(("make", "of", "name"), NAMES)
def test_names(make: Callable[..., str], of: tuple[Any, ...], name: str) -> None:
    assert make(*of) == name


def test_what_stands_alone() -> None:
    assert keys.COORDINATOR == "coordinator.json"
    assert keys.LEASE == "lease.json"
    assert keys.OLDER_PICTURES == "pictures.json"
    assert keys.TENANTS_WHOLE == "tenants.json"
    assert keys.artifact_keys(CLIP, "3-1") == [
        f"clips/{CLIP}/3-1/video.mp4",
        f"clips/{CLIP}/3-1/thumbnail.jpg",
        f"clips/{CLIP}/3-1/sprites.jpg",
    ]


# What is read out of a name; the same name with anything before or after it is another's.
READ: list[tuple[Callable[[str], Any], str, Any]] = [
    (keys.picture_of, f"pictures/{PICTURE}", PICTURE),
    (keys.user_of, f"uses/{PICTURE}/job-1.job", "job-1"),
    (keys.job_of, "jobs/job-1.json", "job-1"),
    (keys.open_job_of, "open/job-1", "job-1"),
    (keys.last_entry_of, "events/job-1/00000007.jsonl", 7),
    (keys.last_entry_of, "events/job-1/123456789.jsonl", 123456789),
    (keys.step_of, f"checkpoints/{CLIP}/0040.safetensors", (CLIP, 40)),
    (keys.clip_of_preview, f"previews/{CLIP}.webp", CLIP),
    (keys.is_webhook_key, "webhooks/job-1/0000000001234", True),
    (keys.is_webhook_key, "webhooks/job-1/12345678901234", True),
    (keys.is_claim_key, f"idempotency/acme/{CLIP}", True),
    (keys.answered_clip, f"answered/acme/{CLIP}", CLIP),
    (keys.clip_of_attempt, f"clips/{CLIP}/3-1/", CLIP),
    (keys.owner_of, "jobs/job-1.json", "job-1"),
    (keys.owner_of, "events/job-1/00000007.jsonl", "job-1"),
    (keys.owner_of, f"uses/{PICTURE}/job-1.job", "job-1"),
    (keys.owner_of, "tenants/of-acme/job-1.job", "job-1"),
    (keys.owner_of, f"answers/{CLIP}/acme/job-1.job", "job-1"),
]


@pytest.mark.parametrize(("read", "name", "meaning"), READ)
def test_what_is_read_out_of_a_name(read: Callable[[str], Any], name: str, meaning: Any) -> None:
    assert read(name) == meaning
    for other in (f"x{name}", f"{name}\n", f"{name}/x", f"/{name}", name.replace("/", "/.", 1)):
        assert not read(other), other


@pytest.mark.parametrize(
    ("read", "name"),
    [
        (keys.user_of, f"uses/{PICTURE[1:]}/job-1.job"),
        (keys.user_of, f"uses/{PICTURE}/job-1_job"),
        (keys.job_of, "jobs/job-1_json"),
        (keys.job_of, "jobs/.DS_Store"),
        (keys.last_entry_of, "events/job-1/0000007.jsonl"),
        (keys.last_entry_of, "events/job-1/00000007_jsonl"),
        (keys.step_of, f"checkpoints/{CLIP}/00040.safetensors"),
        (keys.step_of, f"checkpoints/{CLIP}/004٤.safetensors"),
        (keys.step_of, f"checkpoints/{CLIP}/0040_safetensors"),
        (keys.step_of, f"checkpoints/{CLIP.upper()}/0040.safetensors"),
        (keys.clip_of_preview, f"previews/{CLIP}_webp"),
        (keys.is_webhook_key, "webhooks/job-1/123456789012"),
        (keys.is_claim_key, f"idempotency/{CLIP}"),
        (keys.clip_of, f"clips/{CLIP}"),
        (keys.clip_of_attempt, f"clips/{CLIP}/"),
        (keys.owner_of, f"uses/{PICTURE}/.nfs01.job"),
        (keys.owner_of, f"answers/{CLIP}/job-1.job"),
        (keys.owner_of, "open/job-1"),
        (keys.is_webhook_key, "webhooks/.job/0000000001234"),
    ],
)
def test_names_of_something_else(read: Callable[[str], Any], name: str) -> None:
    assert not read(name)


@pytest.mark.parametrize("name", ["a", "é", "0", "-", "_", "a.b-c_d", "x" * 80, "é" * 80, "a..b"])
def test_names_that_jobs_and_tenants_may_have(name: str) -> None:
    assert keys.check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", ".a", "a b", "a/b", "x" * 81, "한" * 67, "a\n", "\ud800", "a:b"]
)
def test_names_that_they_may_not_have(name: str) -> None:
    with pytest.raises(ValueError, match=r"^a name is 1 to 80 letters, .*got ") as caught:
        keys.check_name(name)
    assert repr(name) in str(caught.value)


def test_the_longest_name() -> None:
    assert keys.check_name("한" * 66)  # 198 bytes
    assert keys.check_name("한" * 66 + "ab")  # 200
    with pytest.raises(ValueError, match="at most 200 bytes"):
        keys.check_name("한" * 66 + "abc")
