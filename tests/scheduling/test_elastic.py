"""Workers that follow demand: which nodes have some, over time."""

from hypothesis import given
from hypothesis import strategies as st

from farm.scheduling.elastic import Elastic
from farm.scheduling.placement import Node

IDLE_S = 10.0


def gpus(*counts: int) -> list[Node]:
    return [Node(f"node-{number}", gpus=count) for number, count in enumerate(counts)]


def names(nodes: list[Node]) -> list[str]:
    return [node.id for node in nodes]


def test_a_farm_from_nothing_to_work_and_back() -> None:
    elastic, nodes = Elastic(IDLE_S, None), gpus(1, 1, 1)
    assert elastic.choose(nodes, (), 0, now=0.0) == []
    assert elastic.choose(nodes, (), 2, now=1.0) == nodes[:2]
    assert elastic.choose(nodes, {"node-1"}, 1, now=2.0) == [nodes[1], nodes[0]]
    assert elastic.choose(nodes, {"node-1"}, 1, now=10.9) == [nodes[1], nodes[0]]  # needed at 1.0
    assert elastic.choose(nodes, {"node-1"}, 1, now=11.0) == [nodes[1]]
    assert elastic.choose(nodes, (), 0, now=20.9) == [nodes[1]]
    assert elastic.choose(nodes, (), 0, now=21.0) == []


def test_no_more_is_asked_for_than_is_allowed() -> None:
    assert [Elastic(IDLE_S, most).wanted(5) for most in (None, 3, 9)] == [5, 3, 5]
    assert names(Elastic(IDLE_S, 2).choose(gpus(1, 1, 1), (), 5, 0.0)) == ["node-0", "node-1"]


def test_a_node_that_leaves_is_replaced() -> None:
    elastic = Elastic(IDLE_S, 3)
    nodes = [Node("a", gpus=2, leaving=True), Node("b", gpus=1)]
    assert [elastic.to_ask_for(nodes, clips) for clips in (0, 1, 9)] == [0, 3, 5]
    assert names(elastic.choose(nodes, {"a"}, 2, 0.0)) == ["b"]


def test_a_node_with_several_gpus_counts_for_as_many() -> None:
    assert names(Elastic(IDLE_S, None).choose(gpus(4, 4, 4), (), 5, 0.0)) == ["node-0", "node-1"]


def test_nodes_of_the_other_kind_get_no_workers() -> None:
    """On a cluster with GPUs, the nodes without one serve HTTP."""
    nodes = [Node("a", cpus=64.0), Node("b", gpus=2, cpus=2.0), Node("head")]
    assert names(Elastic(IDLE_S, None).choose(nodes, (), 9, 0.0)) == ["b"]
    elastic = Elastic(IDLE_S, None, on_gpus=False)
    assert [elastic.units(node) for node in nodes] == [1, 1, 0]
    assert names(elastic.choose(nodes, (), 9, 0.0)) == ["a", "b"]


def test_a_node_that_comes_back_is_a_new_one() -> None:
    elastic, nodes = Elastic(IDLE_S, None), gpus(1)
    assert elastic.choose(nodes, (), 1, now=0.0) == nodes
    assert elastic.choose([], (), 1, now=1.0) == []
    assert elastic.choose(nodes, (), 0, now=2.0) == []


ID = st.integers(0, 4).map("node-{}".format)
NODES = st.lists(
    st.builds(Node, id=ID, gpus=st.integers(0, 3), leaving=st.booleans()),
    max_size=5,
    unique_by=lambda node: node.id,
)
TICKS = st.lists(st.tuples(NODES, st.sets(ID), st.integers(0, 8), st.floats(0, IDLE_S)), max_size=8)


@given(TICKS, st.none() | st.integers(0, 6))
def test_the_laws(ticks: list[tuple[list[Node], set[str], int, float]], most: int | None) -> None:
    elastic, now = Elastic(IDLE_S, most), 0.0
    for nodes, busy, clips, pause_s in ticks:
        now += pause_s
        chosen = elastic.choose(nodes, busy, clips, now)
        usable = [node for node in nodes if node.gpus and not node.leaving]
        assert set(names(chosen)) <= set(names(usable))
        # A node with a task keeps its workers, and there are enough for the clips if there can be.
        assert busy & set(names(usable)) <= set(names(chosen))
        least = min(elastic.wanted(clips), sum(map(elastic.units, usable)))
        assert sum(map(elastic.units, chosen)) >= least
    # Once nothing was needed for a while, nothing is left.
    every = [Node(f"node-{number}", gpus=1) for number in range(5)]
    assert elastic.choose(every, (), 0, now + 1.01 * IDLE_S) == []
