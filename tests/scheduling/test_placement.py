"""How many workers of each kind a cluster gets, and on which nodes."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.model.plan import Kind
from farm.scheduling.placement import Node, Slot, place_workers

SIZES = st.tuples(st.integers(0, 8), st.floats(0, 256))


def named(sizes: list[tuple[int, float]]) -> list[Node]:
    return [Node(f"node-{number:02d}", *size) for number, size in enumerate(sizes)]


def kinds(slots: list[Slot]) -> tuple[int, int]:
    """Renderers and decoders."""
    count = Counter(slot.kind for slot in slots)
    return count[Kind.RENDERER], count[Kind.DECODER]


@given(sizes=st.lists(SIZES, max_size=12), workers=st.none() | st.integers(1, 120))
def test_no_node_is_promised_twice(sizes: list[tuple[int, float]], workers: int | None) -> None:
    nodes = named(sizes)
    slots = place_workers(nodes, workers)
    for node in nodes:
        here = [slot for slot in slots if slot.node == node.id]
        assert sum(slot.gpus for slot in here) <= node.gpus + 1e-9
        assert sum(slot.cpus for slot in here) <= node.cpus
        for slot in here:
            assert bool(slot.gpus) == any(node.gpus for node in nodes)
    if any(node.gpus or node.cpus for node in nodes):
        assert min(kinds(slots)) >= 1
    else:
        assert not slots


@given(
    sizes=st.lists(SIZES, min_size=1, max_size=12).filter(lambda s: any(gpus for gpus, _ in s)),
    workers=st.none() | st.integers(1, 120),
)
def test_every_gpu_works(sizes: list[tuple[int, float]], workers: int | None) -> None:
    """Each GPU is one worker's or is shared by a pair, up to as many as were asked for."""
    gpus = sum(gpus for gpus, _ in sizes)
    used = min(gpus, workers or gpus)
    slots = place_workers(named(sizes), workers)
    assert sum(slot.gpus for slot in slots) == pytest.approx(used)
    renderers, decoders = kinds(slots)
    if used < 9:
        assert renderers == decoders == used
    else:
        assert renderers + decoders == used
        assert 8 * (decoders - 1) <= renderers <= 8 * decoders
        assert {slot.gpus for slot in slots} == {1.0}


@given(
    cpus=st.lists(st.floats(0.1, 256), min_size=1, max_size=12),
    workers=st.none() | st.integers(1, 40),
)
def test_without_gpus_a_pair_on_each_node(cpus: list[float], workers: int | None) -> None:
    slots = place_workers(named([(0, count) for count in cpus]), workers)
    pairs = Counter(slot.node for slot in slots if slot.kind is Kind.RENDERER)
    assert pairs == Counter(slot.node for slot in slots if slot.kind is Kind.DECODER)
    assert sum(pairs.values()) == (workers or len(cpus))
    if workers is None:
        assert set(pairs.values()) == {1}
    elif workers >= len(cpus):
        assert max(pairs.values()) - min(pairs.values()) <= 1


@given(cpus=st.lists(st.floats(0.1, 8), min_size=1, max_size=5), workers=st.integers(1, 9))
def test_of_those_that_share_cores_at_most_a_renderer_spins(
    cpus: list[float], workers: int
) -> None:
    slots = place_workers(named([(0, count) for count in cpus]), workers)
    for slot in slots:
        renderers = [s for s in slots if s.node == slot.node and s.kind is Kind.RENDERER]
        assert slot.spins == (renderers == [slot])


@given(
    sizes=st.lists(SIZES, max_size=12),
    workers=st.none() | st.integers(1, 40),
    seed=st.randoms(use_true_random=False),
)
def test_the_order_of_nodes_says_nothing(
    sizes: list[tuple[int, float]], workers: int | None, seed: Random
) -> None:
    nodes = named(sizes)
    shuffled = list(nodes)
    seed.shuffle(shuffled)
    assert place_workers(shuffled, workers) == place_workers(nodes, workers)


def test_the_ninth_gpu_is_a_decoders_own() -> None:
    eight = place_workers([Node("a", gpus=8, cpus=64)])
    assert kinds(eight) == (8, 8)
    assert {(slot.kind, slot.gpus) for slot in eight} == {
        (Kind.RENDERER, 0.8),
        (Kind.DECODER, 0.2),
    }
    nine = place_workers([Node("a", gpus=8, cpus=64), Node("b", gpus=1, cpus=8)])
    assert kinds(nine) == (8, 1)
    assert {slot.gpus for slot in nine} == {1.0}
    assert kinds(place_workers([Node("a", gpus=8), Node("b", gpus=8), Node("c", gpus=2)])) == (
        16,
        2,
    )


def test_where_there_are_gpus_other_nodes_get_nothing() -> None:
    slots = place_workers([Node("a", cpus=64), Node("b", gpus=1, cpus=8)])
    assert {slot.node for slot in slots} == {"b"}


def test_no_nodes_no_workers() -> None:
    assert place_workers([]) == place_workers([Node("a")], workers=3) == []
