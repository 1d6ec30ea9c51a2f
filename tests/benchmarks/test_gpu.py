"""The GPU's benchmark, on a CPU: every way computes the same, and what it found is said in words."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import gpu
from model_core.grouped import HierarchicalEnsemble
from model_core.package import Package
from service.runners import Array
from tests.service.engines import images


def test_all_ways_compute_the_same(tiny_package: Path, tiny_model: HierarchicalEnsemble) -> None:
    options = argparse.Namespace(batches=[2], device="cpu", compile=False)
    batch = images(2)
    with torch.no_grad():
        expected = tiny_model(torch.from_numpy(batch)).numpy()
    for size, contenders in gpu.ways(Package.load(tiny_package), "float32", options).items():
        assert set(contenders) == {"wide", "steps", "eager"}
        for work in contenders.values():
            np.testing.assert_allclose(work(batch), expected[:size], atol=1e-3)


def test_every_size_and_batch_is_timed_in_every_way(tiny_package: Path, tmp_path: Path) -> None:
    gpu.main(
        f"--model {tiny_package} --device cpu --precisions float32 --batches 1 2 --repeats 1 --no-compile "
        f"--output {tmp_path / 'gpu.json'}".split()
    )
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert [(row["N"], row["batch"]) for row in report["rows"]] == [(n, b) for b in (1, 2) for n in (1, 2, 4, 8, 16)]
    for row in report["rows"]:
        assert row["images/s"] == pytest.approx(1e3 * row["batch"] / row["wide ms"])
        assert min(row["steps ms"], row["eager ms"]) > 0
    assert (tmp_path / "gpu.svg").stat().st_size > 0


def test_an_interrupted_run_goes_on_where_it_was(
    tiny_package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = (
        f"--model {tiny_package} --device cpu --precisions float32 --batches 1 --repeats 1 --no-compile "
        f"--output {tmp_path / 'gpu.json'}"
    ).split()
    measured: list[int] = []

    def timed(contenders: dict[str, gpu.Work], images: Array, repeats: int) -> dict[str, float]:
        measured.append(len(images))
        if len(measured) == 3:
            raise KeyboardInterrupt
        return dict.fromkeys(contenders, 0.001 * len(measured))

    monkeypatch.setattr(gpu, "timed", timed)
    with pytest.raises(KeyboardInterrupt):
        gpu.main(command)
    gpu.main(command)
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert [(row["N"], round(row["wide ms"])) for row in rows] == [(1, 1), (2, 2), (4, 4), (8, 5), (16, 6)]
    with pytest.raises(SystemExit, match="begun with another repeats"):
        gpu.main([*command, "--repeats", "2"])


def test_what_it_found_is_said_in_words() -> None:
    def row(size: int, batch: int, wide: float, grouped: float | None = None) -> dict[str, object]:
        return {
            "precision": "bfloat16",
            "N": size,
            "batch": batch,
            "wide ms": wide,
            "steps ms": 3 * wide,
            "eager ms": 2 * wide,
            "grouped ms": grouped,
            "of grouped": grouped and grouped / wide,
        }

    rows = [row(1, 1, 0.2), row(16, 1, 0.3, 0.6), row(1, 256, 1.0), row(16, 256, 4.0, 3.0)]
    assert gpu.findings(rows) == [
        "bfloat16, batch 1: N = 16 takes 1.50 times N = 1, 3.00 times as long in steps, 2.00 times without graphs; "
        "batch 256: 0.75 of the grouped form's images/s"
    ]
    assert gpu.findings(rows[:1])[0].endswith("2.00 times without graphs")
