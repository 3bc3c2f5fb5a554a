"""A meter that keeps what it is told, as Ray's exporter would."""

from collections import defaultdict

from farm.metrics.catalogue import Metric, Type

Labels = frozenset[tuple[str, str]]


class Recorded:
    """Implements `Meter`, and checks what it is told against the catalogue."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, Labels], float] = defaultdict(float)
        self.observed: dict[tuple[str, Labels], list[float]] = defaultdict(list)

    def add(self, metric: Metric, amount: float = 1.0, **labels: str) -> None:
        assert metric.type is Type.COUNTER
        assert amount >= 0
        self.values[self._series(metric, labels)] += amount

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        assert metric.type is Type.GAUGE
        self.values[self._series(metric, labels)] = value

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        assert metric.type is Type.HISTOGRAM
        self.observed[self._series(metric, labels)].append(value)

    def value(self, metric: Metric, **labels: str) -> float:
        """The sum of a metric's values over all series that have these labels."""
        wanted = labels.items()
        return sum(v for (n, has), v in self.values.items() if n == metric.name and wanted <= has)

    def count(self, metric: Metric, **labels: str) -> int:
        """How many values were observed in series that have these labels."""
        wanted = labels.items()
        return sum(
            len(v) for (n, has), v in self.observed.items() if n == metric.name and wanted <= has
        )

    @staticmethod
    def _series(metric: Metric, labels: dict[str, str]) -> tuple[str, Labels]:
        assert set(labels) == set(metric.labels), metric.name
        return metric.name, frozenset(labels.items())
