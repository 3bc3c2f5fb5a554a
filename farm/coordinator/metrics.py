"""What the coordinator tells Ray's metrics, beside Ray's own."""

from ray.util.metrics import Gauge


class Metrics:
    """Named farm_*; made in the process that they are of."""

    def __init__(self) -> None:
        self._quarantined = Gauge(
            "farm_quarantined_objects", "Objects of the store that could not be read"
        )

    def quarantined(self, count: int) -> None:
        """So many objects are set aside in the store."""
        self._quarantined.set(count)
