"""The simulator: the service's own scheduler on virtual time."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.simulate import main
from benchmarks.simulation.bound import best_goodput
from benchmarks.simulation.load import Load, gamma_load
from benchmarks.simulation.machine import PAPER_TREE, Faults, Machine, cpu_like, gpu_like, measured, paper_table
from benchmarks.simulation.virtual import Run, simulate
from model_core.tree import Segment
from service.policies import parse_policy
from service.state import EngineSettings

TABLE = paper_table()
FLOPS = (0, *(row.flops for row in TABLE))
ACCURACY = np.array([0.0, *(row.accuracy for row in TABLE)])
CPU, GPU = cpu_like(PAPER_TREE, FLOPS), gpu_like(PAPER_TREE, FLOPS)
MACHINES = pytest.mark.parametrize("machine", [CPU, GPU], ids=["cpu", "gpu"])


def offered(machine: Machine, rho: float, *, slack: float = 3.0, count: int = 600, cv2: float = 1.0) -> Load:
    slacks = [slack * machine.full_latency]
    random = np.random.default_rng(1)
    return gamma_load(rate=rho * machine.full_capacity, count=count, slacks=slacks, cv2=cv2, random=random)


def served(machine: Machine, load: Load, policy: str, *, faults: float = 0.0, **limits: int) -> Run:
    return simulate(
        machine,
        load,
        parse_policy(policy, TABLE),
        flops=FLOPS,
        limits=EngineSettings(**({"max_active": 1024, "max_waiting": 4096} | limits)),  # type: ignore[arg-type]
        faults=Faults(share=faults),
        random=np.random.default_rng(2),
    )


def test_the_paper_table_is_the_papers() -> None:
    assert [FLOPS[size] // 1_000_000 for size in (1, 2, 4, 8, 16)] == [51, 66, 107, 202, 402]
    assert [TABLE[size - 1].accuracy for size in (1, 2, 4, 8, 16)] == [0.761, 0.772, 0.780, 0.790, 0.798]


def test_machines_gain_from_batches_and_width_as_they_are_meant_to() -> None:
    assert CPU.full_capacity == pytest.approx(1 / CPU.full_latency)
    assert CPU.seconds[Segment(0, 16)][1] == pytest.approx(sum(CPU.seconds[Segment(leaf)][1] for leaf in range(16)))
    assert GPU.full_capacity > 3 / GPU.full_latency
    assert GPU.seconds[Segment(0, 16)][1] < sum(GPU.seconds[Segment(leaf)][1] for leaf in range(16)) / 4


def test_arrivals_have_the_rate_and_the_variation_asked_for() -> None:
    for cv2 in (1.0, 4.0):
        load = gamma_load(rate=50, count=40_000, slacks=[0.1, 0.3], cv2=cv2, random=np.random.default_rng(0))
        gaps = np.diff(load.arrivals)
        assert gaps.mean() == pytest.approx(1 / 50, rel=0.05)
        assert gaps.var() / gaps.mean() ** 2 == pytest.approx(cv2, rel=0.1)
        assert set(np.round(load.deadlines - load.arrivals, 6)) == {0.1, 0.3}


@MACHINES
def test_alone_every_request_gets_the_full_ensemble(machine: Machine) -> None:
    arrivals = 10 * machine.full_latency * np.arange(20.0)
    load = Load(arrivals=arrivals, deadlines=arrivals + 9 * machine.full_latency)
    for policy in ("anytime", "fixed:16", "slackfit", "most_accurate_that_fits"):
        assert served(machine, load, policy).sizes.tolist() == [16] * 20


def test_an_answer_is_what_is_held_at_the_deadline() -> None:
    step = CPU.seconds[Segment(0)][1]
    load = Load(arrivals=np.array([0.0, 0.0]), deadlines=np.array([1.5 * step, 0.5 * step]))
    assert served(CPU, load, "anytime").sizes[1] == 0
    assert served(CPU, load, "anytime").sizes[0] >= 1
    assert served(CPU, load, "anytime", faults=1.0).sizes.tolist() == [0, 0], (
        "the only segment takes four times as long"
    )


def test_what_finds_no_place_is_not_served() -> None:
    load = Load(arrivals=np.zeros(10), deadlines=np.full(10, 100.0))
    assert (served(CPU, load, "anytime", max_waiting=4).sizes > 0).sum() == 4


@MACHINES
@pytest.mark.parametrize("rho", [0.5, 2.0, 8.0])
def test_no_policy_beats_the_bound(machine: Machine, rho: float) -> None:
    load = offered(machine, rho, cv2=4.0)
    bound = best_goodput(machine, load, ACCURACY.tolist())
    for policy in ("anytime", "fixed:1", "slackfit"):
        assert 0 < ACCURACY[served(machine, load, policy).sizes].mean() <= bound


@MACHINES
def test_anytime_bends_under_load_and_answers_everyone(machine: Machine) -> None:
    sizes = [served(machine, offered(machine, rho), "anytime").sizes for rho in (0.1, 0.8, 2.0)]
    means = [size.mean() for size in sizes]
    assert means == sorted(means, reverse=True)
    assert all((size > 0).mean() > 0.99 for size in sizes)


@MACHINES
def test_under_faults_anytime_keeps_more_than_slackfit(machine: Machine) -> None:
    load = offered(machine, 0.8, slack=6.0, count=3000)
    goodput = {
        policy: ACCURACY[served(machine, load, policy, faults=0.05).sizes].mean() for policy in ("anytime", "slackfit")
    }
    assert goodput["anytime"] > goodput["slackfit"]
    assert served(machine, load, "anytime", faults=0.05).straggle == pytest.approx(4, rel=0.1)


def test_a_measured_machine_offers_what_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "machine.json"
    steps = [{"start": leaf, "width": 1, "seconds": {"1": 0.001, "3": 0.002}} for leaf in range(16)]
    path.write_text(json.dumps({"name": "mine", "segments": steps}))
    machine = measured(path, PAPER_TREE)
    assert (len(machine.seconds), machine.max_batch) == (16, 3)
    assert machine.full_latency == pytest.approx(0.016)
    assert machine.seconds[Segment(5)][1:] == pytest.approx([0.001, 0.0015, 0.002])
    path.write_text(json.dumps({"name": "mine", "segments": steps[1:]}))
    with pytest.raises(ValueError, match=r"missing steps: \[0\]"):
        measured(path, PAPER_TREE)
    with pytest.raises(SystemExit, match="missing steps"):
        main(f"--machine {path} --output {tmp_path / 'report.json'}".split())


def test_the_command_prints_a_table_and_writes_figures_and_plot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    correct = np.random.default_rng(0).random((50, 16)) < 0.7
    np.save(tmp_path / "correct.npy", correct)
    output = tmp_path / "results" / "run.json"
    arguments = [
        "--rho",
        "1",
        "--policies",
        "anytime",
        "fixed:4@1.5",
        "--requests",
        "200",
        "--repeats",
        "2",
        "--seed",
        "7",
    ]
    main([*arguments, "--correct", str(tmp_path / "correct.npy"), "--output", str(output)])
    assert "| 1 | fixed:4@1.5 |" in capsys.readouterr().out
    report = json.loads(output.read_text())
    assert report["settings"]["seed"] == 7
    assert [row["policy"] for row in report["rows"]] == ["anytime", "fixed:4@1.5"]
    assert all(
        0 < row["goodput"] <= row["attainment"] <= 1 and row["expected"] <= row["bound"] for row in report["rows"]
    )
    assert output.with_suffix(".png").stat().st_size > 1000


def test_this_machine_is_measured_with_the_runner_that_would_serve(tmp_path: Path) -> None:
    output = tmp_path / "here.json"
    main(f"--machine here --rho 1 --requests 100 --repeats 1 --policies anytime --output {output}".split())
    report = json.loads(output.read_text())
    assert report["machine"]["name"].startswith("this machine, onnx-cpu")
    assert report["machine"]["full_latency"] > 0
    assert 0 < report["rows"][0]["goodput"] <= 1
