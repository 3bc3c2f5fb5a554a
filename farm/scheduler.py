"""Policy, as pure functions of numbers: how many workers of each kind, and when to try again."""

from dataclasses import dataclass

MAX_ATTEMPTS = 3  # of a clip whose worker died
RENDERERS_PER_DECODER = 8  # a decode takes about an eighth of the time of 25 denoising steps
DECODER_SHARE = 0.2  # of a GPU, for a decoder beside a renderer


@dataclass(frozen=True)
class Pools:
    """How many actors of each kind, and what each one reserves."""

    renderers: int
    decoders: int
    renderer_gpus: float
    decoder_gpus: float
    cpus: float  # of each actor


def size_pools(gpus: int, cpus: float, nodes: int, workers: int | None = None) -> Pools:
    """One worker per GPU; without GPUs, one per node unless `workers` says more.

    A worker is a renderer with a decoder beside it. From nine GPUs on there are some to spare, and
    decoders get their own. On a CPU every worker computes with all threads of its node, because
    the thread count changes the last bits; so one fits the cores.
    """
    if gpus == 0:
        count = workers or max(1, nodes)
        share = min(1.0, int(cpus / (2 * count) * 1000) / 1000)
        return Pools(count, count, 0.0, 0.0, share)
    count = min(workers or gpus, gpus)
    spare = count // (RENDERERS_PER_DECODER + 1)
    if spare:
        return Pools(count - spare, spare, 1.0, 1.0, 0.0)
    return Pools(count, count, 1.0 - DECODER_SHARE, DECODER_SHARE, 0.0)
