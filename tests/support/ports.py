"""Ports for the servers that tests start."""

import random
import socket
from contextlib import suppress


def free_ports(count: int) -> list[int]:
    """Free ports that nobody takes before a server listens there.

    They are below the ephemeral range, and above the ports of Ray's workers (10,002 to 19,999).
    """
    found: list[int] = []
    for port in random.SystemRandom().sample(range(20_000, 32_000), 1000):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no free ports")
