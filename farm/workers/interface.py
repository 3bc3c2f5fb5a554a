"""The network interface of a node, by which the workers that share a task reach each other."""

import os
import socket
import struct
import sys
from contextlib import suppress

SIOCGIFADDR = 0x8915  # Linux's request for the address of an interface


def share_by(address: str) -> None:
    """Have gloo listen at this node's address, which the other nodes know from Ray.

    By default it listens where the host's own name leads to. On Debian that is 127.0.1.1, at which
    no process of another host can reach it. The environment's own choice is kept.
    """
    if interface := interface_of(address):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)


def interface_of(address: str) -> str:
    """The interface that has an IPv4 address; empty if none has, or if that cannot be told."""
    if sys.platform != "linux":
        return ""
    import fcntl

    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        own = socket.inet_aton(address)
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # this one has no IPv4 address
                asked = struct.pack("256s", name.encode())
                if fcntl.ioctl(probe, SIOCGIFADDR, asked)[20:24] == own:
                    return name
    return ""
