"""Which nodes have workers if these follow demand, and how many more are asked for. Pure."""

from collections.abc import Collection, Sequence

from farm.scheduling.placement import Node


class Elastic:
    """Keeps workers on as many nodes as there are clips to render, and on none without any.

    A node keeps its workers for a while after they were last needed, because to start them again
    takes longer than most clips.
    """

    def __init__(self, idle_s: float, most: int | None, on_gpus: bool = True) -> None:
        """idle_s: how long a node keeps workers that are not needed. most: units in use at once.

        on_gpus: whether a unit is a GPU; otherwise it is a node with CPUs.
        """
        self._idle_s, self._most, self._on_gpus = idle_s, most, on_gpus
        self._needed_at: dict[str, float] = {}  # when each node that is in use was last needed

    def wanted(self, clips: int) -> int:
        """The number of units that should be in use for these clips."""
        return clips if self._most is None else min(clips, self._most)

    def to_ask_for(self, nodes: Sequence[Node], clips: int) -> int:
        """The number of units that the cluster should have for these clips.

        The autoscaler counts nodes that are leaving for as long as they are there.
        """
        wanted = self.wanted(clips)
        return wanted and wanted + sum(self.units(node) for node in nodes if node.leaving)

    def choose(
        self, nodes: Sequence[Node], busy: Collection[str], clips: int, now: float
    ) -> list[Node]:
        """The nodes that should have workers.

        busy: the nodes with workers that have a task. clips: how many are to be rendered now.
        """
        there = {node.id: node for node in nodes if not node.leaving and self.units(node)}
        self._needed_at = {name: at for name, at in self._needed_at.items() if name in there}
        # Nodes in use come first, the busy ones before all others.
        order = sorted(
            there, key=lambda name: (name not in busy, name not in self._needed_at, name)
        )
        left = self.wanted(clips)
        for name in order:
            if left > 0 or name in busy:
                self._needed_at[name] = now
                left -= self.units(there[name])
            elif now - self._needed_at.get(name, -self._idle_s) >= self._idle_s:
                self._needed_at.pop(name, None)
        return [there[name] for name in order if name in self._needed_at]

    def units(self, node: Node) -> int:
        """How many clips a node renders at once."""
        return node.gpus if self._on_gpus else int(node.cpus > 0)
