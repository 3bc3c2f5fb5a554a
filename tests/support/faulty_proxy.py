"""A TCP proxy that stalls or cuts connections, between a farm and its S3 server."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.support.ports import free_ports

CHUNK = 65536


class FaultyProxy:
    """Forwards connections from `port` to a server, as long as nothing else is asked of it."""

    def __init__(self, server: int) -> None:
        (self.port,) = free_ports(1)
        self._server = server
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._open = True  # whether connections are accepted
        self._connections = set[asyncio.StreamWriter]()

    def stall(self) -> None:
        """Forward nothing, and keep the connections."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def cut(self) -> None:
        """End all connections, and every new one at once."""
        self._loop.call_soon_threadsafe(self._cut)

    def heal(self) -> None:
        """Forward everything again."""
        self._loop.call_soon_threadsafe(self._heal)

    def _cut(self) -> None:
        self._open = False
        for connection in self._connections:
            connection.transport.abort()

    def _heal(self) -> None:
        self._open = True
        self._flowing.set()

    async def serve(self) -> None:
        self._flowing.set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        async with server:
            await server.serve_forever()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._open:
            writer.transport.abort()
            return
        with suppress(OSError, asyncio.CancelledError):
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._server)
            self._connections |= {writer, to_server}
            pumps = self._pump(reader, to_server), self._pump(from_server, writer)
            await asyncio.gather(*pumps, return_exceptions=True)
            self._connections -= {writer, to_server}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


@contextmanager
def faulty_proxy(server: int) -> Iterator[FaultyProxy]:
    """Run a proxy before a server's port, in a thread."""
    proxy = FaultyProxy(server)
    loop = proxy._loop
    serving: list[asyncio.Task[None]] = []

    async def run() -> None:
        serving.append(asyncio.ensure_future(proxy.serve()))
        with suppress(asyncio.CancelledError):
            await serving[0]
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(lambda: serving[0].cancel())
        thread.join(10)
