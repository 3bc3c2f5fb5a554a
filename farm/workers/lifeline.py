"""A watch on a process's Ray cluster, which notices when the cluster is lost.

Ray does not report it: when its node has died, a call waits for ever or ends the process.
"""

import socket
import threading
import time
from collections.abc import Callable
from functools import lru_cache

import ray

from farm.errors import ClusterLostError

TICK_S = 0.5  # between two checks
CONNECT_S = 2.0  # for an address to answer
GCS_S = 10.0  # without the GCS until the cluster counts as lost; it may come back
REFUSALS = 2  # of the node's own raylet in a row: a dead one never returns to its address

Address = tuple[str, int]


class Lifeline:
    """Watches the node and the GCS of the cluster that this process has joined, in a thread."""

    def __init__(
        self, raylet: Address, gcs: Address, on_dead: Callable[[str], None] | None = None
    ) -> None:
        """Start watching. on_dead: called with the reason when the node is dead.

        An actor passes `end_process`, because on a dead node it would block its successor.
        """
        self._raylet, self._gcs, self._on_dead = raylet, gcs, on_dead
        self._dead = self._without_gcs = ""
        threading.Thread(target=self._watch, name="lifeline", daemon=True).start()

    def check(self) -> None:
        """Raise ClusterLostError if the cluster is lost."""
        if lost := self._dead or self._without_gcs:
            raise ClusterLostError(lost)

    def _watch(self) -> None:
        refusals, last_answer = 0, time.monotonic()
        while refusals < REFUSALS:
            time.sleep(TICK_S)
            refusals = refusals + 1 if _refuses(self._raylet) else 0
            if _answers(self._gcs):
                last_answer, self._without_gcs = time.monotonic(), ""
            elif time.monotonic() - last_answer > GCS_S:
                self._without_gcs = f"the Ray cluster's GCS at {_text(self._gcs)} does not answer"
        self._dead = f"this machine's Ray node is dead: nobody listens at {_text(self._raylet)}"
        if self._on_dead is not None:
            self._on_dead(self._dead)


def lifeline(on_dead: Callable[[str], None] | None = None) -> Lifeline:
    """The lifeline of the cluster that this process is in.

    Raises ClusterLostError if its node is no longer in the cluster.
    """
    context = ray.get_runtime_context()
    return _lifeline(context.get_node_id(), context.gcs_address, on_dead)


@lru_cache(maxsize=4)
def _lifeline(node_id: str, gcs: str, on_dead: Callable[[str], None] | None) -> Lifeline:
    for node in ray.nodes():
        if node["NodeID"] == node_id and node["Alive"]:
            raylet = node["NodeManagerAddress"], int(node["NodeManagerPort"])
            host, _, port = gcs.rpartition(":")
            return Lifeline(raylet, (host.strip("[]"), int(port)), on_dead)
    raise ClusterLostError(f"node {node_id[:8]} is not in its Ray cluster any more")


def _answers(address: Address) -> bool:
    try:
        with socket.create_connection(address, CONNECT_S):
            return True
    except OSError:
        return False


def _refuses(address: Address) -> bool:
    """Whether the connection is refused; one that times out does not count."""
    try:
        with socket.create_connection(address, CONNECT_S):
            return False
    except ConnectionRefusedError:
        return True
    except OSError:
        return False


def _text(address: Address) -> str:
    return f"{address[0]}:{address[1]}"
