"""Small machines, queues and situations, for tests of what decides on them."""

from math import inf

from hypothesis import strategies as st

from model_core.package import EnsembleFigures
from model_core.tree import Segment, Tree
from service.scheduler import Entry, Queues, Situation, by_start

__all__ = [
    "LEAVES",
    "NOW",
    "STEPS",
    "TABLE",
    "WIDE",
    "Linear",
    "figures",
    "filled",
    "machines",
    "situation",
    "waiting_lists",
]

TREE = Tree((1, 2, 2))
LEAVES = TREE.leaves
NOW = 50.0
STEPS = by_start((Segment(leaf) for leaf in range(LEAVES)), LEAVES)
WIDE = by_start(TREE.segments(), LEAVES)


class Linear:
    """A machine with a fixed cost and a cost per image and leaf; step n takes 1 / (n + 1) of step 0."""

    def __init__(self, fixed: float = 1.0, each: float = 0.5, straggle: float = 1.0) -> None:
        self.fixed, self.each, self.straggle = fixed, each, straggle
        self.max_batch = 1000

    def expected(self, segment: Segment, batch: int) -> float:
        assert 1 <= batch <= self.max_batch, "nobody has measured that"
        return (self.fixed + self.each * batch * segment.width) / (segment.start + 1)

    def cheapest(self, segment: Segment) -> float:
        return min(self.expected(segment, batch) / batch for batch in (1, min(4, self.max_batch)))

    @property
    def first_leaf(self) -> float:
        return self.cheapest(Segment(0))

    @property
    def further_leaf(self) -> float:
        return self.cheapest(Segment(1))


def figures(accuracy: list[float], flops: list[int] | None = None) -> list[EnsembleFigures]:
    costs = flops or [10 * (index + 1) for index in range(len(accuracy))]
    return [
        EnsembleFigures(ensemble_size=index + 1, flops=cost, accuracy=value, nll=1, ece=0, temperature=1)
        for index, (value, cost) in enumerate(zip(accuracy, costs, strict=True))
    ]


TABLE = figures([0.6, 0.7, 0.75, 0.76])


def filled(*sizes_and_slacks: tuple[int, float]) -> Queues:
    queues = Queues(LEAVES)
    for number, (size, slack) in enumerate(sizes_and_slacks):
        queues.add(size, Entry(NOW + slack, number))
    return queues


def situation(queues: Queues, **changes: object) -> Situation:
    usual = {
        "segments": STEPS,
        "costs": Linear(),
        "now": NOW,
        "max_batch": 4,
        "free_slots": 3,
        "steps_run": 1,
        "keeping_costs": True,
        "admitted": 0,
        "arrival_rate": 0.0,
        "crowd_rate": 0.0,
        "arrival_slack": inf,
        "lost": 0.0,
        "refused": 0.0,
    }
    return Situation(queues=queues, **{**usual, **changes})  # type: ignore[arg-type]


waiting_lists = st.lists(st.tuples(st.integers(0, LEAVES - 1), st.sampled_from([0.2, 1, 2, 3, 5, 9, inf])), max_size=14)
machines = st.builds(Linear, st.sampled_from([0.0, 0.5, 2.0]), st.sampled_from([0.1, 0.5, 1.0]))
