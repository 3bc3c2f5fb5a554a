"""Webhooks: events that tell a receiver that a job has ended, delivered at least once.

They are signed by the scheme of Standard Webhooks, which OpenAI's clients verify. An event stays in
the store until its receiver has accepted it, so that neither a restart nor a receiver that is down
loses it.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Literal, TypeVar
from weakref import WeakValueDictionary

from farm.background import Background
from farm.clock import Clock
from farm.errors import OutboundError, RequestError
from farm.logs import bound
from farm.metrics import catalogue
from farm.metrics.meter import Meter
from farm.model.job import JobRecord, State
from farm.net.outbound import is_private_literal, parse_url, post
from farm.net.resolver import Resolver
from farm.recent import Recent
from farm.settings import Settings
from farm.store import Store
from farm.store.keys import WEBHOOKS, is_webhook_key, webhook_key
from farm.store.quarantine import get_record
from farm.store.records import Record
from farm.store.retry import retry_until_stored

log = logging.getLogger("farm")

R = TypeVar("R")

FIRST_S = 1.0  # between the first attempt and the second; doubled after each later one
MOST_S = 600.0  # between two attempts
GIVE_UP_S = 24 * 3600.0  # after the job's end
LEAST_S = 600.0  # how long to try after a restart, however long ago the job ended
AT_ONCE = 512  # a tenant's deliveries to hosts that are new, or answered last time
SLOW_AT_ONCE = 16  # a tenant's deliveries to hosts that did not answer last time
PER_HOST = 4  # a tenant's deliveries to one host
SLOW_HOSTS = 10_000  # hosts of a tenant that are remembered because they did not answer


class WebhookEvent(Record):
    """An event that a receiver has not accepted yet; the same in all attempts to deliver it."""

    job: str
    url: str
    type: Literal["video.completed", "video.failed"]
    ended_ms: int  # since 1970
    tenant: str = "default"  # whose job it was; records of older versions lack it

    @property
    def id(self) -> str:
        """The event's id, by which a receiver recognises one that it was sent before."""
        # The end's time is part of it: a deleted job may be submitted again under the same id.
        return f"evt_{hashlib.sha256(self.own_key.encode()).hexdigest()[:32]}"

    @property
    def own_key(self) -> str:
        """Its key in the store."""
        return webhook_key(self.job, self.ended_ms)

    @property
    def body(self) -> bytes:
        """The request's body, in OpenAI's format."""
        document = {
            "id": self.id,
            "object": "event",
            "created_at": self.ended_ms // 1000,
            "type": self.type,
            "data": {"id": self.job},
        }
        return json.dumps(document).encode()


def event_of(job: JobRecord) -> WebhookEvent | None:
    """The event of a job that has ended; None if nobody asked for one."""
    if job.webhook_url is None or job.finished_at is None:
        return None
    return WebhookEvent(
        job=job.id,
        url=job.webhook_url,
        type="video.completed" if job.state is State.COMPLETED else "video.failed",
        ended_ms=round(job.finished_at * 1000),
        tenant=job.tenant,
    )


def signed(event: WebhookEvent, secret: str, now: float) -> dict[str, str]:
    """The headers of a signed request. secret: `whsec_` and the key in base64."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    text = b"%b.%d.%b" % (event.id.encode(), int(now), event.body)
    signature = base64.b64encode(hmac.digest(key, text, "sha256")).decode()
    return {
        "Content-Type": "application/json",
        "webhook-id": event.id,
        "webhook-timestamp": str(int(now)),
        "webhook-signature": f"v1,{signature}",
    }


def check_webhook(url: str | None, settings: Settings) -> None:
    """Raise RequestError for a URL that nothing can be delivered to. Its host is not resolved."""
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
    """A tenant's slots for deliveries, and its resolver: hosts that hang delay no other tenant.

    Within a tenant, hosts that do not answer share a few slots of their own, so that they leave
    those of the other hosts free.
    """

    def __init__(self) -> None:
        self.resolver = Resolver()
        self._fast, self._slow = asyncio.Semaphore(AT_ONCE), asyncio.Semaphore(SLOW_AT_ONCE)
        self._hosts = WeakValueDictionary[str, asyncio.Semaphore]()
        self._slow_hosts = Recent[str, None](SLOW_HOSTS)

    @asynccontextmanager
    async def slot(self, host: str) -> AsyncIterator[None]:
        """A slot for a delivery to a host; an OutboundError in it marks the host as slow."""
        own = self._hosts.setdefault(host, asyncio.Semaphore(PER_HOST))
        async with own, self._slow if host in self._slow_hosts else self._fast:
            try:
                yield
            except OutboundError:
                self._slow_hosts[host] = None
                raise
            self._slow_hosts.pop(host, None)


class Webhooks:
    """Keeps events in the store, and delivers them."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        background: Background,
        clock: Clock,
        meter: Meter,
    ) -> None:
        self._settings, self._store = settings, store
        self._background, self._clock, self._meter = background, clock, meter
        self._new = asyncio.Queue[WebhookEvent]()
        self._under_way: set[WebhookEvent] = set()
        self._lanes: dict[str, Lanes] = {}  # by tenant

    async def add(self, job: JobRecord) -> None:
        """Store the event of a job that has ended; from then on it will be delivered.

        May be called again for the same end, as after a restart. Raises StoreError.
        """
        event = event_of(job)
        if event is not None:
            data = event.model_dump_json().encode()
            await self._background.call(self._store.put, event.own_key, data)
            self._new.put_nowait(event)

    async def deliver(self) -> None:
        """Deliver all events, those of earlier coordinators included; never returns."""
        self._background.start(self._recover())
        while True:
            event = await self._new.get()
            if event not in self._under_way:
                self._under_way.add(event)
                self._background.start(self._deliver(event))

    async def _recover(self) -> None:
        """Read stored events one by one: after a restart the store has more urgent work."""
        for key in await self._stored(lambda: list(self._store.list(WEBHOOKS))):
            if is_webhook_key(key):
                event = await self._stored(get_record, self._store, WebhookEvent, key)
                if event is not None:
                    self._new.put_nowait(event[0])

    async def _deliver(self, event: WebhookEvent) -> None:
        with bound(job=event.job, tenant=event.tenant):
            await self._deliver_bound(event)

    async def _deliver_bound(self, event: WebhookEvent) -> None:
        pause = FIRST_S
        # The age is negative if the wall clock was set back.
        age = self._clock.wall() - event.ended_ms / 1000
        until = self._clock.now() + min(GIVE_UP_S, max(LEAST_S, GIVE_UP_S - age))
        while (why := await self._try(event)) is not None:
            self._meter.add(catalogue.WEBHOOKS, outcome="failed")
            if self._clock.now() > until:
                log.error("%s: its webhook is given up: %s", event.job, why)
                self._meter.add(catalogue.WEBHOOKS, outcome="given_up")
                break
            log.warning("%s: its webhook is retried in %.0f s: %s", event.job, pause, why)
            # At random times: a receiver that is back must not get all its events at once.
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, MOST_S)
        else:
            lag = max(0.0, self._clock.wall() - event.ended_ms / 1000)
            self._meter.add(catalogue.WEBHOOKS, outcome="delivered")
            self._meter.observe(catalogue.WEBHOOK_LAG, lag)
        await self._stored(self._store.delete, event.own_key)
        self._under_way.discard(event)

    async def _try(self, event: WebhookEvent) -> str | None:
        """Send an event once; what went wrong, or None if it was accepted.

        Of a URL only the host is logged: its path can be a secret.
        """
        secret = self._settings.webhook_secret
        if secret is None:
            return "FARM_WEBHOOK_SECRET is not set any more"
        try:
            host = parse_url(event.url).host
            lanes = self._lanes.setdefault(event.tenant, Lanes())
            async with lanes.slot(host):
                headers = signed(event, secret.get_secret_value(), self._clock.wall())
                private = self._settings.webhook_private
                status = await post(event.url, event.body, headers, private, lanes.resolver)
        except OutboundError as error:
            return str(error)
        except Exception as error:  # no error of one attempt may end the others
            log.exception("%s: its webhook", event.job)
            return repr(error)
        return None if 200 <= status < 300 else f"{host} answered {status}"

    async def _stored(self, call: Callable[..., R], *arguments: Any) -> R:
        """The result of a call to the store, which is retried until it succeeds."""
        return await retry_until_stored(
            partial(self._background.call, call, *arguments),
            "webhooks: the store cannot be used yet",
        )
