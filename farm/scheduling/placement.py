"""The workers that a cluster should have, and their nodes. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from farm.model.plan import Kind

RENDERERS_PER_DECODER = 8  # a decode takes about an eighth of the time of 25 denoising steps
DECODER_SHARE = 0.2  # the share of a GPU for a decoder beside a renderer


@dataclass(frozen=True)
class Node:
    """A machine of the cluster."""

    id: str
    gpus: int = 0
    cpus: float = 0.0
    leaving: bool = False  # it will be taken away soon, as spot nodes are


@dataclass(frozen=True)
class Slot:
    """A place for one worker: its node, and the resources that it reserves there."""

    kind: Kind
    node: str
    gpus: float
    cpus: float
    spins: bool = True  # whether its threads wait for work in a busy loop, instead of sleeping


def place_workers(nodes: Sequence[Node], workers: int | None = None) -> list[Slot]:
    """Place a renderer and a decoder on each GPU, or on each node of a cluster without GPUs.

    Nodes that are leaving get none.
    workers: on GPUs, the most GPUs to use; on CPUs, the number of pairs to spread over the nodes.

    From nine GPUs on, decoders get GPUs of their own: every ninth one. Without GPUs the default is
    one pair per node, because a worker computes with all threads of its node: the number of threads
    changes the last bits of results. Of workers that share cores at most one may spin: two that
    spin slow each other down fivefold, while one that sleeps takes twice as long as alone.
    """
    nodes = sorted((node for node in nodes if not node.leaving), key=lambda node: node.id)
    gpus = [node for node in nodes for _ in range(node.gpus)]
    if gpus:
        return _on_gpus(gpus[:workers])
    return _on_cpus([node for node in nodes if node.cpus], workers)


def _on_gpus(gpus: Sequence[Node]) -> list[Slot]:
    group = RENDERERS_PER_DECODER + 1
    if len(gpus) < group:
        shares = [(Kind.RENDERER, 1 - DECODER_SHARE), (Kind.DECODER, DECODER_SHARE)]
        return [Slot(kind, node.id, share, 0.0) for node in gpus for kind, share in shares]
    return [
        Slot(Kind.RENDERER if number % group else Kind.DECODER, node.id, 1.0, 0.0)
        for number, node in enumerate(gpus)
    ]


def _on_cpus(nodes: Sequence[Node], workers: int | None) -> list[Slot]:
    slots = []
    count = workers or len(nodes)
    for number, node in enumerate(nodes):
        here = count // len(nodes) + (number < count % len(nodes))
        share = min(1.0, int(node.cpus / (2 * max(1, here)) * 1000) / 1000)
        slots += [
            Slot(kind, node.id, 0.0, share, spins=kind is Kind.RENDERER and here == 1)
            for _ in range(here)
            for kind in Kind
        ]
    return slots
