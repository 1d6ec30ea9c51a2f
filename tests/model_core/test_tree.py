"""The tree against its closed forms, for the paper's binary tree and for arbitrary branching factors."""

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_core.errors import SpecError
from model_core.tree import Node, Segment, Tree

branchings = st.lists(st.integers(1, 4), min_size=1, max_size=5).filter(lambda factors: prod(factors) <= 64).map(tuple)
depths = st.integers(0, 6)


def binary(depth: int) -> Tree:
    return Tree((1,) + (2,) * depth)


@given(depths)
def test_a_binary_tree_has_the_papers_node_counts(depth: int) -> None:
    tree = binary(depth)
    assert tree.leaves == 2**depth
    assert len(list(tree.nodes())) == 2 ** (depth + 1) - 1
    assert tree.nested_sizes() == tuple(2**b for b in range(depth + 1))


@given(depths, st.data())
def test_fresh_nodes_of_a_step_follow_the_trailing_zeros(depth: int, data: st.DataObject) -> None:
    tree = binary(depth)
    leaf = data.draw(st.integers(0, tree.leaves - 1))
    trailing_zeros = (leaf & -leaf).bit_length() - 1
    expected = depth + 1 if leaf == 0 else 1 + trailing_zeros
    assert len(tree.fresh_nodes(Segment(leaf))) == expected


@given(depths)
def test_the_first_leaves_cost_the_closed_form(depth: int) -> None:
    tree = binary(depth)
    for b in range(depth + 1):
        nodes = sum(len(tree.fresh_nodes(Segment(leaf))) for leaf in range(2**b))
        assert nodes == (depth - b) + 2 ** (b + 1) - 1


@given(branchings)
def test_steps_partition_the_tree(branching: tuple[int, ...]) -> None:
    tree = Tree(branching)
    fresh = [node for leaf in range(tree.leaves) for node in tree.fresh_nodes(Segment(leaf))]
    assert sorted(fresh) == list(tree.nodes())


@given(branchings)
def test_a_leafs_path_is_computed_by_the_time_its_step_is_done(branching: tuple[int, ...]) -> None:
    tree = Tree(branching)
    done: set[Node] = set()
    for leaf in range(tree.leaves):
        done.update(tree.fresh_nodes(Segment(leaf)))
        path = tree.leaf_path(leaf)
        assert set(path) <= done
        assert [tree.parent(node) for node in path] == [None, *path[:-1]]


@given(branchings, st.data())
def test_any_walk_over_segments_finds_its_entry_among_the_kept_activations(
    branching: tuple[int, ...], data: st.DataObject
) -> None:
    tree = Tree(branching)
    kept: dict[int, Node] = {}
    done: list[Node] = []
    leaf = 0
    while leaf < tree.leaves:
        segment = tree.segment(leaf, data.draw(st.sampled_from(tree.widths(leaf))))
        entry = tree.entry_node(leaf)
        assert entry is None or kept[entry.block] == entry
        for block in tree.kept_blocks(segment):
            kept[block] = Node(block, tree.fresh(segment)[block][-1])
        done += tree.fresh_nodes(segment)
        leaf = segment.stop
    assert leaf == tree.leaves
    assert sorted(done) == list(tree.nodes())


def test_segments_of_the_papers_tree() -> None:
    tree = binary(4)
    assert tree.widths(0) == (1, 2, 4, 8, 16)
    assert [tree.widths(leaf) for leaf in (1, 2, 4, 6, 8, 12)] == [
        (1,),
        (1, 2),
        (1, 2, 4),
        (1, 2),
        (1, 2, 4, 8),
        (1, 2, 4),
    ]
    assert tree.fresh(Segment(8, 2)) == {1: range(1, 2), 2: range(2, 3), 3: range(4, 5), 4: range(8, 10)}
    assert tree.kept_blocks(Segment(0)) == (0, 1, 2, 3)
    assert tree.kept_blocks(Segment(0, 2)) == (0, 1, 2)
    assert tree.kept_blocks(Segment(15)) == ()
    stops = [1, 2, 3, 4, 5, 8, 9, 16]
    kept = [(), (3,), (2, 3), (2, 3), (1, 2, 3), (1, 2, 3), (0, 1, 2, 3), (0, 1, 2, 3)]
    assert [tree.kept_blocks(Segment(0), until) for until in stops] == kept
    assert tree.kept_blocks(Segment(0, 2), 4) == (2,)


@given(branchings, st.data())
def test_who_stops_early_needs_no_more_than_what_is_kept_until_then(
    branching: tuple[int, ...], data: st.DataObject
) -> None:
    """What is kept of each segment, up to an ensemble size, is what the segments up to there start from."""
    tree = Tree(branching)
    until = data.draw(st.sampled_from(tree.ensemble_sizes))
    kept: dict[int, Node] = {}
    needed: set[int] = set()
    for leaf in range(until):
        if (node := tree.entry_node(leaf)) is not None:
            assert kept[node.block] == node
            needed.add(node.block)
        for block in tree.kept_blocks(Segment(leaf), until):
            kept[block] = Node(block, tree.fresh(Segment(leaf))[block][-1])
    assert set(kept) == needed, "and nothing else"


@given(branchings)
def test_every_node_that_starts_at_a_leaf_can_be_one_segment(branching: tuple[int, ...]) -> None:
    """The node's whole subtree at once, whichever block it is in, from one stored activation or the image."""
    tree = Tree(branching)
    for node in tree.nodes():
        span = tree.span(node.block)
        start = node.k * span
        if tree.entry_block(start) <= node.block:
            fresh = tree.fresh(tree.segment(start, span))
            assert fresh[node.block] == range(node.k, node.k + 1)
            assert len(fresh[tree.blocks - 1]) == span


def test_segments_where_the_image_itself_branches() -> None:
    tree = Tree((2, 2))
    assert [tree.widths(leaf) for leaf in range(4)] == [(1, 2, 4), (1,), (1, 2), (1,)]
    assert tree.fresh(Segment(2, 2)) == {0: range(1, 2), 1: range(2, 4)}


def test_multi_branch_and_independent_trees() -> None:
    multi_branch, independent = Tree((1, 1, 1, 16, 1)), Tree((16, 1, 1, 1, 1))
    assert [multi_branch.entry_block(leaf) for leaf in (0, 1, 15)] == [0, 3, 3]
    assert all(independent.entry_node(leaf) is None for leaf in range(16))
    assert all(len(independent.fresh_nodes(Segment(leaf))) == 5 for leaf in range(16))


@pytest.mark.parametrize("branching", [(), (1, 0), (2, -1)])
def test_a_tree_needs_positive_branching_factors(branching: tuple[int, ...]) -> None:
    with pytest.raises(SpecError, match="branching factors"):
        Tree(branching)


def test_leaves_and_segments_that_do_not_exist_are_refused() -> None:
    tree = binary(2)
    with pytest.raises(SpecError, match="leaf 4 does not exist"):
        tree.leaf_path(4)
    with pytest.raises(SpecError, match=r"no segment of 2 leaves starts at leaf 1; possible: \(1,\)"):
        tree.segment(1, 2)
