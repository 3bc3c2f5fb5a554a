"""The reason why no worker can take the waiting tasks, for people. Pure."""

from collections.abc import Collection, Mapping

from farm.model.plan import Kind
from farm.scheduling.placement import Slot


def why_blocked(
    slots: Mapping[str, Slot],
    up: Collection[str],
    troubles: Mapping[str, str],
    drained: Collection[str],
) -> str:
    """Why clips cannot be rendered; empty if they can, or will be in a moment.

    up: the workers that are running. drained: those that an operator has excluded from new tasks.
    troubles: why other workers are not up, by name.
    """
    if not slots:
        return "no node of the Ray cluster has a GPU or a CPU for a worker"
    missing = (_why_none(kind, slots, up, troubles, drained) for kind in Kind)
    return "; ".join(filter(None, missing))


def _why_none(
    kind: Kind,
    slots: Mapping[str, Slot],
    up: Collection[str],
    troubles: Mapping[str, str],
    drained: Collection[str],
) -> str:
    if any(slots[name].kind is kind for name in up if name in slots and name not in drained):
        return ""
    names = sorted(name for name, slot in slots.items() if slot.kind is kind)
    if troubled := [name for name in names if name in troubles]:
        others = f" (and {len(troubled) - 1} more)" if troubled[1:] else ""
        return f"no {kind} is up: {troubled[0]}{others}: {troubles[troubled[0]]}"
    if any(name in drained for name in names):
        return f"every {kind} is drained; undo it for one of them"
    return ""
