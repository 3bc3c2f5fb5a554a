"""Diagnoses a trace: judges each of its tensors, and keeps what was named and what was left out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from svd_engine.conformance.findings import Finding, Verdict
from svd_engine.conformance.inside import Inside, check_whole_steps, look_inside
from svd_engine.conformance.judge import Show, judge_tensor
from svd_engine.conformance.replay import STAGES, UNET, Case, MissingTensorError, replayable_keys
from svd_engine.conformance.traces import Trace, split_key
from svd_engine.deviation_catalogue import CATALOGUE

STEPS_JUDGED = 2  # of the UNet, by default


@dataclass(frozen=True)
class Diagnosis:
    """All findings in the order of computation."""

    findings: tuple[Finding, ...]
    record_next: tuple[str, ...]  # what the trace lacks to judge more stages
    not_judged: tuple[str, ...] = ()  # tensors of steps that were left out, or of unknown names
    guessed: Mapping[str, str] = field(default_factory=dict)  # our names, by the port's own

    @property
    def deviations(self) -> tuple[str, ...]:
        """All named mistakes, in the catalogue's order."""
        named = {name for finding in self.findings for name in finding.deviations}
        return tuple(name for name in CATALOGUE if name in named)

    @property
    def exit_status(self) -> int:
        """0: all that was recorded is right. 1: a mistake was named. 2: the trace may be wrong.

        The last is so if a tensor departs without a name for it, or was recorded but not judged.
        """
        if self.deviations:
            return 1
        verdicts = {finding.verdict for finding in self.findings}
        return 0 if verdicts == {Verdict.RIGHT} and not self.not_judged else 2

    def as_json(self) -> dict[str, Any]:
        """The diagnosis as JSON values."""
        return {
            "deviations": list(self.deviations),
            "stages": [asdict(finding) for finding in self.findings],
            "record_next": list(self.record_next),
            "not_judged": list(self.not_judged),
            "guessed": dict(self.guessed),
        }


@torch.no_grad()
def diagnose(
    case: Case,
    tell: Callable[[Finding], object] = lambda _: None,
    steps_judged: int | None = STEPS_JUDGED,
    show: Show | None = None,
    blocks: Trace | None = None,
) -> Diagnosis:
    """Judge every tensor of the trace that can be judged. tell: called with each finding.

    show: called with each tensor that departs; see `Show`.
    steps_judged: at how many of the recorded steps to judge the UNet, spread evenly from the first
    to the last; None means all. If a later one of them departs and an earlier one does not, the
    first step that departs is searched for between them by bisection.
    blocks: what the port recorded inside its networks; see `look_inside`. Raises ValueError at once
    if steps reuse features.
    """
    if blocks is not None:
        check_whole_steps(case.params)
    keys = list(replayable_keys(case.trace))
    of_unet = {step: key for key, name, step in keys if name == UNET}
    chosen = _spread(sorted(of_unet), steps_judged)
    judge = _Judge(case, tell, show)
    for key, name, step in keys:
        if name != UNET or step in chosen:
            judge(key, name, step)
    findings = judge.findings
    departs = {step: findings[of_unet[step]].departs for step in chosen}
    _bisect(sorted(of_unet), departs, lambda step: judge(of_unet[step], UNET, step).departs)
    judged = {split_key(key)[0] for key in findings}
    unrecorded = (name.replace("step.", "step.000.") for name in STAGES if name not in judged)
    inside = Inside() if blocks is None else look_inside(case, blocks, tell)
    return Diagnosis(
        (*(findings[key] for key in case.trace if key in findings), *inside.findings),
        tuple(judge.missing | dict.fromkeys(unrecorded)),
        (*(key for key in case.trace if key not in findings), *inside.not_judged),
        case.guessed,
    )


class _Judge:
    """Judges tensors of a trace, and keeps the findings and what is missing for others."""

    def __init__(self, case: Case, tell: Callable[[Finding], object], show: Show | None) -> None:
        self.findings: dict[str, Finding] = {}
        self.missing: dict[str, None] = {}
        self._case, self._tell, self._show = case, tell, show
        self._own_names = {ours: own for own, ours in case.guessed.items()}

    def __call__(self, key: str, name: str, step: int) -> Finding:
        try:
            finding = judge_tensor(self._case, key, name, step, self._show)
        except MissingTensorError as error:
            needed = str(error.args[0])
            self.missing[needed] = None
            finding = Finding(key, Verdict.UNKNOWN, note=f"needs {needed}")
        if key in self._own_names:
            guess = f"name guessed by shape and order: {self._own_names[key]}"
            finding = replace(finding, note=", ".join(filter(None, (finding.note, guess))))
        self.findings[key] = finding
        self._tell(finding)
        return finding


def _spread(steps: Sequence[int], count: int | None) -> set[int]:
    """`count` of the steps, spread evenly from the first to the last; None means all."""
    if count is None or count >= len(steps):
        return set(steps)
    last = len(steps) - 1
    return {steps[round(n * last / max(count - 1, 1))] for n in range(count)}


def _bisect(steps: Sequence[int], departs: dict[int, bool], judge: Callable[[int], bool]) -> None:
    """Find the first step that departs between those that were judged, by judging others."""
    first = min((step for step, does in departs.items() if does), default=None)
    before = [step for step in departs if first is not None and step < first]
    if first is None or not before:
        return
    between = [step for step in steps if max(before) < step < first]
    while between:
        middle = len(between) // 2
        between = between[:middle] if judge(between[middle]) else between[middle + 1 :]
