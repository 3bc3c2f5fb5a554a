"""Reports metrics to Ray, which exports them beside its own on every node."""

from collections import defaultdict
from collections.abc import Mapping, MutableSet
from functools import cached_property
from typing import Any

from ray.util import metrics as ray_metrics

from farm.metrics.catalogue import METRICS, Metric, Type

MOST = 100  # values of one label; Prometheus keeps a series in memory for each
OTHER = "other"  # stands for the values beyond


class RayMeter:
    """Implements `Meter` in a process of a Ray cluster."""

    def __init__(self) -> None:
        self._seen: dict[str, MutableSet[str]] = defaultdict(set)  # values, by label

    def add(self, metric: Metric, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        if amount > 0:  # Ray refuses 0
            self._ray[metric.name].inc(amount, self._bounded(labels))

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Set a gauge."""
        self._ray[metric.name].set(value, self._bounded(labels))

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """Count a value in a histogram. Ray's sum of a histogram is a rough one, by its buckets."""
        self._ray[metric.name].observe(value, self._bounded(labels))

    @cached_property
    def _ray(self) -> dict[str, Any]:
        return {metric.name: _made(metric) for metric in METRICS}

    def _bounded(self, labels: Mapping[str, str]) -> dict[str, str]:
        """The labels, with values that are new once there are MOST of them replaced."""
        return {name: self._known(self._seen[name], value) for name, value in labels.items()}

    def _known(self, seen: MutableSet[str], value: str) -> str:
        if len(seen) < MOST:
            seen.add(value)
        return value if value in seen else OTHER


def _made(metric: Metric) -> Any:
    if metric.type is Type.COUNTER:
        return ray_metrics.Counter(metric.name, metric.help, metric.labels)
    if metric.type is Type.GAUGE:
        return ray_metrics.Gauge(metric.name, metric.help, metric.labels)
    return ray_metrics.Histogram(
        metric.name, metric.help, list(metric.buckets), tag_keys=metric.labels
    )
