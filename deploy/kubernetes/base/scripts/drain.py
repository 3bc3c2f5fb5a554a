"""Drain this pod's workers, and wait until they have ended their tasks: a preStop hook.

A task that is cut off is repeated from its last checkpoint, so every failure here only costs time.
"""

import sys
import time

from farm.client.farm import Farm
from farm.client.ray_link import connect
from farm.errors import FarmError
from farm.settings import load_settings

POLL_S = 1.0


def drain(farm: Farm, address: str, limit_s: float) -> bool:
    """Drain the workers at an IP address; False if some have a task left when time is up."""
    until = time.monotonic() + limit_s
    workers = farm.status()["workers"]
    mine = [name for name, worker in workers.items() if _is_at(worker, address)]
    for name in mine:
        farm.drain(name)
    while any("task" in farm.status()["workers"].get(name, {}) for name in mine):
        if time.monotonic() > until:
            return False
        time.sleep(POLL_S)
    return True


def _is_at(worker: dict[str, object], address: str) -> bool:
    return str(worker.get("place", "")).rpartition(":")[0] == address


if __name__ == "__main__":
    try:
        done = drain(connect(load_settings(), start=False), sys.argv[1], float(sys.argv[2]))
    except FarmError as error:
        sys.exit(f"not drained: {error}")
    sys.exit(None if done else "time is up before the workers' tasks")
