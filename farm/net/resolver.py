"""Host names looked up on threads of their own, so that one that hangs holds up no other."""

import asyncio
import socket
from concurrent.futures import Future
from threading import Thread

from farm.errors import OutboundError

LOOKUP_S = 5.0  # to answer; a name server that is slower is asked again with the next try
LOOKUPS = 256  # at once of one resolver, those included that nobody waits for any more


def literal(name: str) -> str | None:
    """The address that a host is spelt as, the way the system reads it; None for a name."""
    if ":" in name:
        return name
    try:
        # As 0x7f.1 and 2130706433, which are 127.0.0.1.
        return socket.inet_ntoa(socket.inet_aton(name))
    except (OSError, ValueError):
        return None


class Resolver:
    """Asks the system's resolver, about each name once at a time.

    Nobody can end a lookup that hangs, so it keeps its thread: it is counted until it ends.
    """

    def __init__(self, most: int = LOOKUPS) -> None:
        self._most = most
        self._under_way: dict[str, Future[list[str]]] = {}

    async def addresses(self, name: str) -> list[str]:
        """Where a host is. OutboundError where nobody knows, or not in time."""
        found = literal(name)
        if found is not None:
            return [found]
        lookup = self._under_way.get(name)
        if lookup is None:
            if len(self._under_way) >= self._most:
                raise OutboundError(f"{self._most} other hosts are being looked up")
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
