"""Puts a diagnosis into words: a line for each finding, and the summary that follows them."""

import inspect
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path

from svd_engine.conformance.diagnose import Diagnosis
from svd_engine.conformance.findings import Finding, Verdict
from svd_engine.conformance.inside import is_block
from svd_engine.conformance.replay import UNET
from svd_engine.conformance.traces import split_key
from svd_engine.deviation_catalogue import CATALOGUE


def right_line(name: str) -> str:
    """The correct code in this engine for a mistake: file, line and function."""
    module_name, _, function_name = CATALOGUE[name].where.partition(":")
    module = import_module(f"svd_engine.{module_name}")
    function = inspect.unwrap(getattr(module, function_name))
    lines, first = inspect.getsourcelines(function)
    line = first + next(n for n, text in enumerate(lines) if function_name in text)
    root = Path(__file__).parents[2]
    file = Path(inspect.getsourcefile(function) or "").relative_to(root)
    return f"{file}:{line} {function_name}"


def report(diagnosis: Diagnosis) -> Iterator[str]:
    """The lines of the summary that follows the findings."""
    for name in diagnosis.deviations:
        known = CATALOGUE[name]
        yield f"{name}: {known.wrong}"
        yield f"    right: {known.right} ({right_line(name)})"
    unexplained = [f.key for f in diagnosis.findings if f.verdict is Verdict.UNEXPLAINED]
    if unexplained:
        yield f"departs, and no known mistake explains it: {', '.join(unexplained)}"
    inside = [f.key for f in diagnosis.findings if f.departs and is_block(f.key)]
    if inside:
        yield f"inside the networks, the first block that departs is {inside[0]}"
    for finding in diagnosis.findings:
        if finding.relation:
            yield f"    {finding.key}: {relation_of(finding)}"
    if diagnosis.record_next:
        yield f"to judge more, record {', '.join(diagnosis.record_next)}"
    yield from not_judged(diagnosis)
    if diagnosis.guessed:
        guesses = (f"{own} as {ours}" for own, ours in diagnosis.guessed.items())
        yield f"names guessed by shape and order, which may be wrong: {', '.join(guesses)}"
    if not diagnosis.deviations and not unexplained:
        yield verdict_of(diagnosis)


def verdict_of(diagnosis: Diagnosis) -> str:
    """The whole diagnosis in one sentence."""
    named = len(diagnosis.deviations)
    unexplained = sum(f.verdict is Verdict.UNEXPLAINED for f in diagnosis.findings)
    parts = []
    if named:
        parts.append(f"{named} known {'mistakes are' if named > 1 else 'mistake is'} named")
    if unexplained:
        tensors = "tensors depart" if unexplained > 1 else "tensor departs"
        parts.append(f"{unexplained} {tensors} that no known mistake explains")
    if parts:
        return ", and ".join(parts)
    if diagnosis.exit_status == 0:
        return "nothing wrong in what was recorded"
    if any(finding.verdict is Verdict.RIGHT for finding in diagnosis.findings):
        return "cannot tell: nothing wrong in what was judged, and the rest may be wrong"
    return "cannot tell: nothing could be judged"


def not_judged(diagnosis: Diagnosis) -> Iterator[str]:
    """What was recorded but not judged: tensors that lack something, steps, unknown names."""
    lacking = [f.key for f in diagnosis.findings if f.verdict is Verdict.UNKNOWN]
    steps, blocks, names = list[int](), list[str](), list[str]()
    for key in diagnosis.not_judged:
        name, step = split_key(key)
        if name == UNET and step is not None:
            steps.append(step)
        else:
            (blocks if is_block(key) else names).append(key)
    if lacking:
        yield f"recorded but not judged, for the reason in the table: {', '.join(lacking)}"
    if steps:
        judged = [f.key for f in diagnosis.findings if split_key(f.key)[0] == UNET]
        at = _ranges([split_key(key)[1] or 0 for key in judged])
        yield (
            f"the UNet was judged at step {at}, but not at step {_ranges(steps)}, which was "
            "recorded as well: --steps-judged all judges every step"
        )
    if blocks:
        why = "because this engine computes them together with others, or not at all"
        yield f"recorded but not judged, {why}: {', '.join(blocks)}"
    if names:
        yield f"recorded but not judged, under unknown names: {', '.join(names)}"


def _ranges(steps: Sequence[int]) -> str:
    """Steps as text: 1 to 3, 5."""
    runs = list[list[int]]()
    for step in sorted(steps):
        if runs and step == runs[-1][-1] + 1:
            runs[-1].append(step)
        else:
            runs.append([step])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def line_of(finding: Finding) -> str:
    """A finding as one line."""
    numbers = [("right", finding.right), ("under it", finding.under)]
    residuals = ", ".join(f"{what} {number:.1e}" for what, number in numbers if number is not None)
    named = " + ".join(finding.deviations)
    details = (named, residuals, finding.note, relation_of(finding))
    parts = [finding.key.ljust(22), finding.verdict.value.ljust(12), *details]
    return "  ".join(part for part in parts if part).rstrip()


def relation_of(finding: Finding) -> str:
    """How an unexplained tensor is related to the right one, in words."""
    left = finding.relation_residual
    return finding.relation + ("" if left is None else f" (residual {left:.0e})")
