"""What the engine costs beside the computation."""

import json
from pathlib import Path

import pytest

from benchmarks import efficiency
from benchmarks.simulation.decisions import timed_decisions
from benchmarks.simulation.machine import PAPER_TREE, Machine, cpu_like, gpu_like, paper_table
from service.policies import parse_policy

FLOPS = (0, *(row.flops for row in paper_table()))


@pytest.mark.parametrize("policy", ["anytime", "slackfit", "fixed:4", "most_accurate_that_fits"])
@pytest.mark.parametrize("machine", [cpu_like(PAPER_TREE, FLOPS), gpu_like(PAPER_TREE, FLOPS)], ids=["cpu", "gpu"])
def test_decisions_are_timed_with_the_ledger_full(machine: Machine, policy: str) -> None:
    timed = timed_decisions(
        machine.profile(),
        sorted(machine.seconds),
        parse_policy(policy, paper_table()),
        flops=FLOPS,
        active=64,
        max_batch=16,
        count=200,
        seed=0,
    )
    assert len(timed) == 200
    assert all(decision.deciding > 0 for decision in timed)


def test_engine_and_bare_loop_do_the_same_work(tiny_package: Path, image_folder: Path, tmp_path: Path) -> None:
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
