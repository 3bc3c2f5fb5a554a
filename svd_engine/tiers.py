"""Tiers: how near a clip comes to what the checkpoint gives in full, by name. No torch.

`exact` runs the whole UNet at each step of the checkpoint's own schedule. The others are
approximations, faster and never called exact. `fast` takes 10 steps along the levels of Align Your
Steps. `reuse` computes every Nth step whole, where N is `reuse_interval`; the steps between keep
the deep features of the last whole one. Both go together: `fast` with an interval of 2 has 10
steps, of which 5 are whole.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from svd_engine.values import stripped, whole

TierName = Literal["exact", "fast", "reuse"]
MAX_INTERVAL = 10  # a clip gives way to another after a whole number of intervals

# What a tier means where the request does not say.
_DEFAULTS: dict[Any, dict[str, int]] = {
    "fast": {"num_inference_steps": 10},
    "reuse": {"reuse_interval": 2},
}


def with_tier(given: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as they were given, and what their tier means; an interval alone is of `reuse`."""
    interval = whole(given.get("reuse_interval"))
    if "tier" not in given and isinstance(interval, int) and interval > 1:
        return {"tier": "reuse", **given}
    tier = stripped(given.get("tier"))
    return {**(_DEFAULTS.get(tier, {}) if isinstance(tier, str) else {}), **given}


def check_tier(tier: TierName, sigmas: Sequence[float] | None) -> TierName:
    """The tier; ValueError where it contradicts the sigmas that were given."""
    if tier == "fast" and sigmas is not None:
        raise ValueError("the tier fast has sigmas of its own: leave out one of the two")
    return tier


def check_interval(interval: int, tier: TierName, steps: int) -> int:
    """The interval of reuse; ValueError where the tier or the number of steps contradicts it."""
    if tier == "exact" and interval > 1:
        raise ValueError(f"the tier exact has every step whole: give reuse or fast, got {interval}")
    if tier == "reuse" and interval == 1:
        raise ValueError("1 reuses nothing: give 2 or more, or the tier exact")
    if 1 < interval >= steps:
        raise ValueError(f"must be less than the number of steps, {steps}; got {interval}")
    return interval


def whole_steps(steps: int, interval: int) -> list[int]:
    """The steps that are computed whole; the others reuse features of the last of them."""
    return [step for step in range(steps) if is_whole(step, interval)]


def is_whole(step: int, interval: int) -> bool:
    """Whether a step is computed whole, counted from the clip's first, which is."""
    return step % interval == 0
