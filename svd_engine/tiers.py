"""Tiers: names for how closely a clip follows the checkpoint's full computation. No torch.

`exact` runs the whole UNet at each step of the checkpoint's own schedule. The other tiers are
faster approximations. `fast` takes 10 steps along the levels of Align Your Steps. `reuse` computes
every Nth step whole, where N is `reuse_interval`; the steps in between reuse the deep features of
the last whole step. The two can be combined: `fast` with an interval of 2 has 10 steps, of which 5
are whole.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from svd_engine.values import stripped, whole

TierName = Literal["exact", "fast", "reuse"]
MAX_INTERVAL = 10  # a worker switches to another clip only between two intervals

# The parameters that a tier sets, unless the request sets them.
_DEFAULTS: dict[Any, dict[str, int]] = {
    "fast": {"num_inference_steps": 10},
    "reuse": {"reuse_interval": 2},
}


def with_tier(given: Mapping[str, Any]) -> dict[str, Any]:
    """Add the parameters that the tier sets. An interval without a tier means the tier `reuse`."""
    interval = whole(given.get("reuse_interval"))
    if "tier" not in given and isinstance(interval, int) and interval > 1:
        return {"tier": "reuse", **given}
    tier = stripped(given.get("tier"))
    return {**(_DEFAULTS.get(tier, {}) if isinstance(tier, str) else {}), **given}


def check_tier(tier: TierName, sigmas: Sequence[float] | None) -> TierName:
    """Check the tier. Raises ValueError if it contradicts the given sigmas."""
    if tier == "fast" and sigmas is not None:
        raise ValueError("the tier fast has sigmas of its own: leave out one of the two")
    return tier


def check_interval(interval: int, tier: TierName, steps: int) -> int:
    """Check the interval. Raises ValueError if it contradicts the tier or the number of steps."""
    if tier == "exact" and interval > 1:
        raise ValueError(
            f"the tier exact computes every step whole: give reuse or fast, got {interval}"
        )
    if tier == "reuse" and interval == 1:
        raise ValueError("an interval of 1 reuses nothing: give 2 or more, or the tier exact")
    if 1 < interval >= steps:
        raise ValueError(f"must be less than the number of steps, {steps}; got {interval}")
    return interval


def whole_steps(steps: int, interval: int) -> list[int]:
    """The steps that are computed whole. The others reuse features of the last whole step."""
    return [step for step in range(steps) if is_whole(step, interval)]


def is_whole(step: int, interval: int) -> bool:
    """Whether a step is computed whole, counted from the clip's first step, which always is."""
    return step % interval == 0
