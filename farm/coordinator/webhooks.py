"""Webhooks: whoever asked for it is told, at least once, that a job has ended.

Signed as Standard Webhooks has it, and OpenAI's clients verify it. What is owed is in the store
until a receiver has taken it: neither a restart nor a receiver that is down loses it.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Literal, TypeVar
from weakref import WeakValueDictionary

from farm.background import Background, Recent
from farm.clock import uptime
from farm.errors import OutboundError, RequestError
from farm.model.job import Job, State
from farm.net.outbound import is_private_literal, parse_url, post
from farm.net.resolver import Resolver
from farm.settings import Settings
from farm.store import Store
from farm.store.keys import WEBHOOKS, is_webhook_key, webhook_key
from farm.store.quarantine import get_record
from farm.store.records import Record
from farm.store.retry import retry_until_stored

log = logging.getLogger("farm")

R = TypeVar("R")

FIRST_S = 1.0  # between the first try and the second; then twice as long, and so on
MOST_S = 600.0
GIVE_UP_S = 24 * 3600.0  # after the job's end
LEAST_S = 600.0  # for which it is tried in any case after a restart
AT_ONCE = 512  # of a tenant: tries with hosts that answered last time, or are new
SLOW_AT_ONCE = 16  # of a tenant: tries with hosts that did not answer last time
PER_HOST = 4  # of a tenant with one host
TROUBLES = 10_000  # hosts of a tenant that are remembered for not having answered


class Owed(Record):
    """What a receiver is to be told; the same for all tries, and after a restart."""

    job: str
    url: str
    type: Literal["video.completed", "video.failed"]
    ended_ms: int  # since 1970
    tenant: str = "default"  # who asked for it; older records do not say

    @property
    def id(self) -> str:
        """Of the event, by which a receiver knows one that it was told before."""
        # A job that was deleted can be asked for again under its id, and ends anew.
        return f"evt_{hashlib.sha256(self.own_key.encode()).hexdigest()[:32]}"

    @property
    def own_key(self) -> str:
        """Where it is in the store."""
        return webhook_key(self.job, self.ended_ms)

    @property
    def body(self) -> bytes:
        """What is sent, as OpenAI has it."""
        event = {
            "id": self.id,
            "object": "event",
            "created_at": self.ended_ms // 1000,
            "type": self.type,
            "data": {"id": self.job},
        }
        return json.dumps(event).encode()


def owed_for(job: Job) -> Owed | None:
    """What is owed for a job that has ended; None where nobody asked for it."""
    if job.webhook_url is None or job.finished_at is None:
        return None
    return Owed(
        job=job.id,
        url=job.webhook_url,
        type="video.completed" if job.state is State.COMPLETED else "video.failed",
        ended_ms=round(job.finished_at * 1000),
        tenant=job.tenant,
    )


def signed(owed: Owed, secret: str, now: float) -> dict[str, str]:
    """The headers. secret: whsec_ and a key's base64."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    text = b"%b.%d.%b" % (owed.id.encode(), int(now), owed.body)
    signature = base64.b64encode(hmac.digest(key, text, "sha256")).decode()
    return {
        "Content-Type": "application/json",
        "webhook-id": owed.id,
        "webhook-timestamp": str(int(now)),
        "webhook-signature": f"v1,{signature}",
    }


def check_webhook(url: str | None, settings: Settings) -> None:
    """RequestError for a URL that can never be told anything. Its host is not looked up yet."""
    if url is None:
        return
    if settings.webhook_secret is None:
        message = "webhook_url: this farm signs no webhooks; its operator must set"
        raise RequestError(f"{message} FARM_WEBHOOK_SECRET")
    try:
        target = parse_url(url)
    except OutboundError as error:
        raise RequestError(f"webhook_url: {error}") from error
    if not settings.webhook_private and is_private_literal(target):
        message = f"webhook_url: {target.host} is no public address; its operator may allow those"
        raise RequestError(f"{message} with FARM_WEBHOOK_PRIVATE=true")


class Lanes:
    """A tenant's slots, and its resolver: what hangs takes no room of other tenants.

    Within a tenant, hosts that do not answer have few slots of their own, so that they leave those
    of the others free.
    """

    def __init__(self) -> None:
        self.resolver = Resolver()
        self._quick, self._slow = asyncio.Semaphore(AT_ONCE), asyncio.Semaphore(SLOW_AT_ONCE)
        self._hosts = WeakValueDictionary[str, asyncio.Semaphore]()
        self._troubles = Recent[str, None](TROUBLES)

    @asynccontextmanager
    async def slot(self, host: str) -> AsyncIterator[None]:
        """A slot to try a host in; an OutboundError in it is the host's trouble."""
        own = self._hosts.setdefault(host, asyncio.Semaphore(PER_HOST))
        async with own, self._slow if host in self._troubles else self._quick:
            try:
                yield
            except OutboundError:
                self._troubles[host] = None
                raise
            self._troubles.pop(host, None)


class Webhooks:
    """Those that are owed, in the store, and the loop that pays them."""

    def __init__(self, settings: Settings, store: Store, background: Background) -> None:
        self._settings, self._store, self._background = settings, store, background
        self._new = asyncio.Queue[Owed]()
        self._under_way: set[Owed] = set()
        self._lanes: dict[str, Lanes] = {}  # by tenant

    async def owe(self, job: Job) -> None:
        """A job has ended: once this returns, who asked for it will be told. StoreError.

        The same end may be told of again, as after a restart.
        """
        owed = owed_for(job)
        if owed is not None:
            data = owed.model_dump_json().encode()
            await self._background.call(self._store.put, owed.own_key, data)
            self._new.put_nowait(owed)

    async def deliver(self) -> None:
        """Tell all that is owed, by coordinators before this one too; for ever."""
        self._background.start(self._recover())
        while True:
            owed = await self._new.get()
            if owed not in self._under_way:
                self._under_way.add(owed)
                self._background.start(self._pay(owed))

    async def _recover(self) -> None:
        """One by one: the store has more urgent things to do after a restart."""
        for key in await self._kept(lambda: list(self._store.list(WEBHOOKS))):
            if is_webhook_key(key):
                owed = await self._kept(get_record, self._store, Owed, key)
                if owed is not None:
                    self._new.put_nowait(owed[0])

    async def _pay(self, owed: Owed) -> None:
        pause = FIRST_S
        age = time.time() - owed.ended_ms / 1000  # the wall clock may have been set meanwhile
        until = uptime() + min(GIVE_UP_S, max(LEAST_S, GIVE_UP_S - age))
        while (why := await self._try(owed)) is not None:
            if uptime() > until:
                log.error("%s: its webhook is given up: %s", owed.job, why)
                break
            log.warning("%s: its webhook is tried again in %.0f s: %s", owed.job, pause, why)
            # Not all at once, when a receiver is back that many were owed to.
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, MOST_S)
        await self._kept(self._store.delete, owed.own_key)
        self._under_way.discard(owed)

    async def _try(self, owed: Owed) -> str | None:
        """Tell it once; what was wrong, or None where it was taken.

        Of a URL only the host is told: its path can be a secret.
        """
        secret = self._settings.webhook_secret
        if secret is None:
            return "FARM_WEBHOOK_SECRET is not set any more"
        try:
            host = parse_url(owed.url).host
            lanes = self._lanes.setdefault(owed.tenant, Lanes())
            async with lanes.slot(host):
                headers = signed(owed, secret.get_secret_value(), time.time())
                private = self._settings.webhook_private
                status = await post(owed.url, owed.body, headers, private, lanes.resolver)
        except OutboundError as error:
            return str(error)
        except Exception as error:  # whatever it is, it must not end what keeps trying
            log.exception("%s: its webhook", owed.job)
            return repr(error)
        return None if 200 <= status < 300 else f"{host} answered {status}"

    async def _kept(self, call: Callable[..., R], *arguments: Any) -> R:
        """The result of a call to the store, which is retried until it succeeds."""
        return await retry_until_stored(
            partial(self._background.call, call, *arguments),
            "webhooks: the store cannot be used yet",
        )
