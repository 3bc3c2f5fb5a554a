"""The results of a simulation, as text."""

import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from farm.model.plan import Kind
from farm.scheduling.state import AGING_S

TENANTS = {"large": 0.5, "middle": 0.35, "small": 0.15}  # shares of the jobs
PRIORITIES = {10: 0.3, 50: 0.5, 90: 0.2}


@dataclass
class Report:
    """The results of a simulation. Times are in simulated seconds, except for real_s."""

    gpus: int
    jobs: int
    done: int = 0
    failed: int = 0
    decisions: int = 0
    real_s: float = 0.0
    simulated_s: float = 0.0
    preempted: int = 0
    resumed: int = 0  # how often a clip continued on another worker
    waits: dict[tuple[str, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    gave_way_s: dict[int, float] = field(default_factory=lambda: dict.fromkeys(PRIORITIES, 0.0))
    busy_s: dict[Kind, float] = field(default_factory=lambda: dict.fromkeys(Kind, 0.0))
    there_s: dict[Kind, float] = field(default_factory=lambda: dict.fromkeys(Kind, 0.0))
    worked_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(TENANTS, 0.0))
    samples: list[tuple[float, float, dict[str, int]]] = field(default_factory=list)

    @property
    def utilisation(self) -> float:
        """The share of time that all workers were busy while work waited for them."""
        return sum(self.busy_s.values()) / max(1e-9, sum(self.there_s.values()))

    def waits_of(self, tenant_or_priority: str | int) -> list[float]:
        """The sorted waits until the first task, of the jobs of a tenant or of a priority."""
        chosen = (waits for key, waits in self.waits.items() if tenant_or_priority in key)
        return sorted(wait for waits in chosen for wait in waits)

    def lines(self) -> Iterator[str]:
        """The report as text, line by line."""
        yield f"{self.gpus:,} GPUs, {self.jobs:,} jobs: {self.done:,} done, {self.failed:,} failed"
        yield (
            f"{self.decisions:,} decisions in {self.real_s:.0f} s, with all of the simulation: "
            f"{self.decisions / self.real_s:,.0f} a second; {self.simulated_s:,.0f} s simulated"
        )
        yield f"{self.preempted:,} GPUs taken away; {self.resumed:,} times a clip moved and went on"
        for kind in Kind:
            share = self.busy_s[kind] / max(1e-9, self.there_s[kind])
            yield f"utilisation of {kind}s while work waits: {share:.2%}"
        yield f"utilisation while work waits: {self.utilisation:.2%}"
        yield "wait until the first task, s    p50      p99      max"
        for priority in sorted(PRIORITIES, reverse=True):
            yield _waits(f"priority {priority}", self.waits_of(priority)) + (
                f"   gave way to jobs up to {self.gave_way_s[priority]:,.0f} s younger;"
                f" aging allows {(max(PRIORITIES) - priority) * AGING_S:,.0f}"
            )
        for tenant in TENANTS:
            share = self.worked_s[tenant] / max(1e-9, sum(self.worked_s.values()))
            yield _waits(f"tenant {tenant}", self.waits_of(tenant)) + f"   {share:.1%} of the work"


def _waits(name: str, waits: Sequence[float]) -> str:
    waits = waits or [0.0]
    p50, p99 = statistics.median(waits), waits[int(0.99 * (len(waits) - 1))]
    return f"  {name:20} {p50:12.1f} {p99:8.1f} {waits[-1]:8.1f}"
