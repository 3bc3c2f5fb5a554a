"""The seam through which metrics are reported."""

from typing import Protocol

from farm.metrics.catalogue import Metric


class Meter(Protocol):
    """Takes values of metrics. Labels are given by name; every label of a metric must be given."""

    def add(self, metric: Metric, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter."""

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Set a gauge."""

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """Count a value in a histogram."""


class Unmetered:
    """Forgets every value: where nothing exports them."""

    def add(self, metric: Metric, amount: float = 1.0, **labels: str) -> None:
        """Implement `Meter`."""

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Implement `Meter`."""

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """Implement `Meter`."""
