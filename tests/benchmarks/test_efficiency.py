"""What the engine costs beside the computation."""

import json
from pathlib import Path

import pytest

from benchmarks import efficiency
from benchmarks.efficiency import Witness, bare_seconds
from benchmarks.load.inprocess import closed_loop
from benchmarks.load.local import Local
from benchmarks.simulation.decisions import timed_decisions
from benchmarks.simulation.machine import PAPER_TREE, Machine, cpu_like, gpu_like, paper_table
from service.policies import parse_policy
from service.scheduler import Decision, Situation
from service.state import EngineSettings

FLOPS = (0, *(row.flops for row in paper_table()))


@pytest.mark.parametrize("policy", ["anytime", "slackfit", "fixed:4", "most_accurate_that_fits"])
@pytest.mark.parametrize("machine", [cpu_like(PAPER_TREE, FLOPS), gpu_like(PAPER_TREE, FLOPS)], ids=["cpu", "gpu"])
def test_decisions_are_timed_with_the_ledger_full(machine: Machine, policy: str) -> None:
    decide, seen = parse_policy(policy, paper_table()), list[int]()

    def watched(situation: Situation) -> Decision | None:
        seen.append(sum(len(queue) for _, queue in situation.queues.everyone()))
        return decide(situation)

    timed = timed_decisions(
        machine.profile(),
        sorted(machine.seconds),
        watched,
        flops=FLOPS,
        active=64,
        max_batch=16,
        count=200,
        seed=0,
    )
    assert len(timed) == 200
    assert all(decision.deciding > 0 for decision in timed)
    assert [waiting + decision.ended for waiting, decision in zip(seen[-200:], timed, strict=True)] == [64] * 200


def test_the_bare_loop_does_what_the_engine_did(tiny_package: Path, images: list[tuple[str, bytes]]) -> None:
    local = Local(
        tiny_package, images, limits=EngineSettings(max_batch=4, profile_seconds=0.1), threads=1, runner="cpu"
    )
    engines = Witness(local.runner)
    with local.engine("anytime", engines) as engine:
        ends = closed_loop(engine, local.pixels, 8, 0.1)
    assert engines.leaves == 16 * len(ends)
    bare = Witness(local.runner)
    local.runner = bare  # type: ignore[assignment]
    assert bare_seconds(local, engines.runs) > 0
    assert bare.runs == engines.runs


def test_the_report_has_a_row_for_every_batch(tiny_package: Path, image_folder: Path, tmp_path: Path) -> None:
    efficiency.main(
        f"--model {tiny_package} --images {image_folder} --count 8 --threads 1 --runner cpu --batches 2 4 "
        f"--seconds 0.2 --repeats 1 --decisions 100 --output {tmp_path / 'efficiency.json'}".split()
    )
    report = json.loads((tmp_path / "efficiency.json").read_text())
    assert [row["largest batch"] for row in report["rows"]] == [2, 4]
    for row in report["rows"]:
        assert 1 <= row["mean batch"] <= row["largest batch"]
        assert row["share"] == pytest.approx(row["engine, leaves/s"] / row["bare loop, leaves/s"])
    assert [row["active"] for row in report["decisions"]] == [256, 256]
