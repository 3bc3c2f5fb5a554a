"""The coordinator's metrics, which Ray exports beside its own."""

from ray.util.metrics import Gauge


class Metrics:
    """Gauges named farm_*, to be created in the process that reports them."""

    def __init__(self) -> None:
        self._quarantined = Gauge(
            "farm_quarantined_objects", "Objects of the store that could not be read"
        )

    def quarantined(self, count: int) -> None:
        """Report the number of quarantined objects."""
        self._quarantined.set(count)
