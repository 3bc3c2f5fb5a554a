"""What may be deleted from a store: old jobs, and what no job names. Pure."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from farm.model.job import JobRecord
from farm.store.keys import attempt_prefix, clip_of_attempt
from farm.store.protocol import Entry

# An object that no job names stays for this long after it was written: its job may be on its way.
GRACE_S = 3600.0
CLAIM_S = 25 * 3600.0  # a claim of an idempotency key is in force for 24 hours


class Kind(StrEnum):
    """What an item is; items are deleted in this order."""

    JOB = "job"  # a finished job's record, log and entries in indexes
    CLIP = "clip"  # with all its artifacts
    ARTIFACT = "artifact"  # of lost attempts at a clip that stays
    PICTURE = "picture"
    CHECKPOINT = "checkpoint"  # and previews, of clips that nobody renders
    CLAIM = "idempotency key"
    LEFTOVER = "leftover"  # logs and entries in indexes, of jobs that are gone


class Policy(NamedTuple):
    """How long finished jobs are kept; None means for ever."""

    keep_s: float | None = None
    keep_bytes: int | None = None  # of finished jobs, with their clips and pictures


class Facts(NamedTuple):
    """What a job names."""

    job: str
    tenant: str
    ended_at: float | None  # None while it is open
    picture: str
    attempts: frozenset[str] = frozenset()  # the prefixes of its clips' artifacts
    awaited: frozenset[str] = frozenset()  # the clips that it waits for

    @property
    def clips(self) -> set[str]:
        """All clips that it has or waits for."""
        return {clip for each in self.attempts if (clip := clip_of_attempt(each))} | self.awaited


def facts_of(job: JobRecord) -> Facts:
    """The facts of a job."""
    return Facts(
        job=job.id,
        tenant=job.tenant,
        ended_at=None if job.state.is_open else job.finished_at or job.created_at,
        picture=job.request.picture,
        attempts=frozenset(attempt_prefix(result.video) for result in job.results),
        awaited=frozenset(
            request.digest for request in (job.missing_clips() if job.state.is_open else ())
        ),
    )


class Item(NamedTuple):
    """Something that may be deleted as a whole."""

    kind: Kind
    name: str  # of the job, clip, picture or object
    tenant: str  # empty if no job says
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Freed:
    """What the items of a kind and a tenant take up."""

    kind: Kind
    tenant: str
    items: int
    objects: int
    bytes: int


@dataclass
class Inventory:
    """All objects of a store that may be deleted, and the facts of all jobs."""

    jobs: list[Facts] = field(default_factory=list)
    recorded: set[str] = field(default_factory=set)  # jobs with a record, even an unreadable one
    own: defaultdict[str, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    clips: defaultdict[str, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    pictures: dict[str, Entry] = field(default_factory=dict)
    checkpoints: defaultdict[str, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    markers: defaultdict[str, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    claims: list[Entry] = field(default_factory=list)
    lease_at: float = 0.0  # when the store's lease was last written, by the server's clock
    committed: set[str] = field(default_factory=set)  # attempts that `doubtful` clips' records name

    def doubtful(self) -> list[str]:
        """The clips that jobs name, and that have more attempts than one that a job names."""
        named = {attempt for job in self.jobs for attempt in job.attempts}
        clips = {clip for job in self.jobs for clip in job.clips}
        return [
            clip
            for clip in sorted(clips & self.clips.keys())
            if len(attempts := self.attempts(clip)) > 1 or not attempts.keys() <= named
        ]

    def attempts(self, clip: str) -> dict[str, list[Entry]]:
        """The artifacts of a clip, by the prefix of their attempt."""
        found: dict[str, list[Entry]] = {}
        for entry in self.clips[clip]:
            prefix = attempt_prefix(entry.key)
            if clip_of_attempt(prefix):
                found.setdefault(prefix, []).append(entry)
        return found


def plan(inventory: Inventory, policy: Policy, now: float) -> list[Item]:
    """What to delete, in order: jobs that are past keeping, then what no other job names."""
    expired = expired_jobs(inventory, policy, now)
    kept = [job for job in inventory.jobs if job.job not in expired]
    former = _Names(expired.values(), kept, now)
    pictures = {digest: [entry] for digest, entry in inventory.pictures.items()}
    claims = {entry.key: [entry] for entry in inventory.claims}
    awaited = {clip for job in kept for clip in job.awaited}
    return [
        *(
            Item(Kind.JOB, job, facts.tenant, tuple(inventory.own[job]))
            for job, facts in expired.items()
        ),
        *former.unnamed(Kind.CLIP, inventory.clips, lambda job: job.clips),
        *_lost_artifacts(inventory, former),
        *former.unnamed(Kind.PICTURE, pictures, lambda job: {job.picture}),
        *_old(Kind.CHECKPOINT, inventory.checkpoints, awaited, now - GRACE_S),
        *_old(Kind.CLAIM, claims, (), now - CLAIM_S),
        *_old(Kind.LEFTOVER, inventory.own, inventory.recorded, now - GRACE_S),
        *former.unnamed(Kind.LEFTOVER, inventory.markers, lambda job: job.clips),
    ]


class _Names:
    """Finds objects that no kept job names, and the tenants whose expired jobs did."""

    def __init__(self, expired: Collection[Facts], kept: Collection[Facts], now: float) -> None:
        self.expired, self.kept, self.before = expired, kept, now - GRACE_S

    def unnamed(
        self,
        kind: Kind,
        objects: Mapping[str, Sequence[Entry]],
        names: Callable[[Facts], Collection[str]],
    ) -> Iterator[Item]:
        """An item for each object that no kept job names.

        One that an expired job named may be new; any other may be one whose job is on its way.
        """
        kept = {name for job in self.kept for name in names(job)}
        tenants = {name: job.tenant for job in self.expired for name in names(job)}
        for name, entries in objects.items():
            if name not in kept and (name in tenants or _is_old(entries, self.before)):
                yield Item(kind, name, tenants.get(name, ""), tuple(entries))


def _lost_artifacts(inventory: Inventory, names: _Names) -> Iterator[Item]:
    """The attempts that neither a kept job nor a clip's record names, of clips that stay."""
    kept = {clip for job in names.kept for clip in job.clips}
    for clip in inventory.doubtful():
        if clip in kept:
            lost = inventory.attempts(clip)
            for attempt in lost.keys() & inventory.committed:
                del lost[attempt]
            yield from names.unnamed(Kind.ARTIFACT, lost, lambda job: job.attempts)


def _old(
    kind: Kind, objects: Mapping[str, Sequence[Entry]], kept: Collection[str], before: float
) -> Iterator[Item]:
    """An item for each object that is not kept, and was last written before that time."""
    for name, entries in objects.items():
        if name not in kept and _is_old(entries, before):
            yield Item(kind, name, "", tuple(entries))


def _is_old(entries: Sequence[Entry], before: float) -> bool:
    return all(entry.written_at < before for entry in entries)


def _bytes(entries: Sequence[Entry]) -> int:
    return sum(entry.size for entry in entries)


def expired_jobs(inventory: Inventory, policy: Policy, now: float) -> dict[str, Facts]:
    """The finished jobs that are past keeping, the one that ended first first."""
    ended = sorted(
        (job for job in inventory.jobs if job.ended_at is not None),
        key=lambda job: (job.ended_at, job.job),
    )
    expired = {}
    if policy.keep_s is not None:
        last = now - policy.keep_s
        expired = {
            job.job: job for job in ended if job.ended_at is not None and job.ended_at <= last
        }
    if policy.keep_bytes is not None:
        kept = [job for job in ended if job.job not in expired]
        expired |= {job.job: job for job in _beyond(inventory, kept, policy.keep_bytes)}
    return expired


def _beyond(inventory: Inventory, ended: Sequence[Facts], keep_bytes: int) -> Iterator[Facts]:
    """The jobs to delete, oldest first, so that the others take up at most `keep_bytes`."""
    sizes = _sizes(inventory)
    named = Counter(name for job in ended for name in {*job.clips, job.picture})
    held = {n for job in inventory.jobs if job.ended_at is None for n in {*job.clips, job.picture}}
    total = sum(sizes.get(name, 0) for name in named if name not in held)
    total += sum(_bytes(inventory.own.get(job.job, ())) for job in ended)
    for job in ended:
        if total <= keep_bytes:
            return
        yield job
        total -= _bytes(inventory.own.get(job.job, ()))
        for name in {*job.clips, job.picture}:
            named[name] -= 1
            if not named[name] and name not in held:
                total -= sizes.get(name, 0)


def bytes_by_tenant(inventory: Inventory) -> dict[str, int]:
    """What each tenant's jobs take up, with all clips and pictures that they name."""
    names: defaultdict[str, set[str]] = defaultdict(set)
    total: Counter[str] = Counter()
    for job in inventory.jobs:
        total[job.tenant] += _bytes(inventory.own.get(job.job, ()))
        names[job.tenant] |= {*job.clips, job.picture}
    sizes = _sizes(inventory)
    for tenant, named in names.items():
        total[tenant] += sum(sizes.get(name, 0) for name in named)
    return dict(total)


def _sizes(inventory: Inventory) -> dict[str, int]:
    """The bytes of clips and pictures, by their names."""
    sizes = {clip: _bytes(entries) for clip, entries in inventory.clips.items()}
    return sizes | {digest: entry.size for digest, entry in inventory.pictures.items()}


def freed(items: Iterable[Item]) -> list[Freed]:
    """The sums by kind and tenant, in this order."""
    sums: dict[tuple[Kind, str], list[int]] = {}
    for item in items:
        total = sums.setdefault((item.kind, item.tenant), [0, 0, 0])
        total[0] += 1
        total[1] += len(item.entries)
        total[2] += _bytes(item.entries)
    order = list(Kind)
    keys = sorted(sums, key=lambda key: (order.index(key[0]), key[1]))
    return [Freed(kind, tenant, *sums[kind, tenant]) for kind, tenant in keys]
