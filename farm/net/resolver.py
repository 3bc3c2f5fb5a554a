"""A resolver that looks up each host name on a thread of its own, so that none delays another."""

import asyncio
import socket
from concurrent.futures import Future
from threading import Thread

from farm.errors import OutboundError

LOOKUP_S = 5.0  # how long to wait for a lookup
LOOKUPS = 256  # the most lookups at once by one resolver, including those that timed out


def literal(name: str) -> str | None:
    """The address that a host is written as, as the system would parse it; None for a name."""
    if ":" in name:
        return name
    try:
        # inet_aton accepts every spelling: 0x7f.1 and 2130706433 are 127.0.0.1 too.
        return socket.inet_ntoa(socket.inet_aton(name))
    except (OSError, ValueError):
        return None


class Resolver:
    """An asynchronous front to the system's resolver, which has at most one lookup per name open.

    A lookup that hangs cannot be cancelled: it keeps its thread, and counts until it ends.
    """

    def __init__(self, most: int = LOOKUPS) -> None:
        self._most = most
        self._under_way: dict[str, Future[list[str]]] = {}

    async def addresses(self, name: str) -> list[str]:
        """The addresses of a host. Raises OutboundError if there are none, or not in time."""
        found = literal(name)
        if found is not None:
            return [found]
        lookup = self._under_way.get(name)
        if lookup is None:
            if len(self._under_way) >= self._most:
                raise OutboundError(f"{self._most} other hosts are being looked up: try later")
            lookup = self._under_way[name] = Future()
            Thread(target=self._look_up, args=(name, lookup), name="lookup", daemon=True).start()
        try:
            async with asyncio.timeout(LOOKUP_S):
                return await asyncio.shield(asyncio.wrap_future(lookup))
        except TimeoutError as error:
            raise OutboundError(f"{name} cannot be looked up within {LOOKUP_S:g} s") from error
        except (OSError, ValueError) as error:
            raise OutboundError(f"{name} cannot be looked up: {error}") from error

    def _look_up(self, name: str, lookup: "Future[list[str]]") -> None:
        try:
            places = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except BaseException as error:
            del self._under_way[name]
            lookup.set_exception(error)
        else:
            del self._under_way[name]
            lookup.set_result(list(dict.fromkeys(str(place[0]) for *_, place in places)))
