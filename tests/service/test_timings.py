"""What a profile starts from: measured within its time, and kept for the next start."""

import json
import logging
import shutil
from pathlib import Path

import pytest

from model_core.package import Package
from model_core.tree import Segment
from service.profile import Timings
from service.runners import Array, Rows
from service.runners.base import batch_of
from service.runners.onnx import OnnxRunner
from service.timings import measure, timings_of


class Ticking:
    """A clock that moves on by the same time whenever it is read."""

    def __init__(self, tick: float = 0.01) -> None:
        self.now, self.tick = 0.0, tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


@pytest.fixture
def copied(package: Package, tmp_path: Path) -> Package:
    return Package.load(shutil.copytree(package.root, tmp_path / "model"))


@pytest.fixture
def runner(copied: Package) -> OnnxRunner:
    runner = OnnxRunner(copied)
    runner.reserve(6)
    return runner


def started(package: Package, runner: OnnxRunner, tick: float, *, keep: bool = True) -> Timings:
    """A start on a machine whose segments all take `tick`."""
    return timings_of(package, runner, max_batch=2, clock=Ticking(tick), seconds=100.0, keep=keep)


@pytest.mark.parametrize(("budget", "batches"), [(1000.0, [1, 2, 4, 6]), (0.001, [1])])
def test_measuring_keeps_to_its_time_but_always_knows_batch_one(
    copied: Package, runner: OnnxRunner, budget: float, batches: list[int]
) -> None:
    timings = measure(copied, runner, max_batch=6, clock=Ticking(), seconds=budget)
    assert {shape.entry_block for shape in timings} == {0, 1, 2, 3, 4}
    for measured in timings.values():
        assert list(measured) == batches
        assert measured[1][0] == pytest.approx(0.01)


class Warming(OnnxRunner):
    """A runner whose first run of a segment and batch size takes a second, as `clock` tells, and further ones 10 ms."""

    def __init__(self, package: Package) -> None:
        super().__init__(package)
        self.now = 0.0
        self._warm: set[tuple[Segment, int]] = set()

    def clock(self) -> float:
        return self.now

    def run(self, segment: Segment, rows: Rows, images: Array | None = None, *, until: int | None = None) -> Array:
        kind = segment, batch_of(rows)
        self.now += 0.01 if kind in self._warm else 1.0
        self._warm.add(kind)
        return super().run(segment, rows, images, until=until)


def test_the_first_run_of_a_batch_size_counts_nothing(copied: Package) -> None:
    runner = Warming(copied)
    runner.reserve(6)
    timings = measure(copied, runner, max_batch=6, clock=runner.clock, seconds=1000.0)
    for measured in timings.values():
        for seconds in measured.values():
            assert seconds == pytest.approx([0.01] * len(seconds))


def test_the_next_start_knows_what_the_last_one_measured(copied: Package, runner: OnnxRunner) -> None:
    assert started(copied, runner, 0.25) == started(copied, runner, 0.5)
    (kept,) = copied.root.with_name("model.profiles").iterdir()
    assert kept.suffix == ".json"


def test_a_package_is_found_where_one_stands(
    copied: Package, runner: OnnxRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copied.root)
    assert started(Package.load(Path()), runner, 0.25)
    assert list(copied.root.with_name("model.profiles").iterdir())


def test_unless_it_is_not_to_be_kept(copied: Package, runner: OnnxRunner) -> None:
    started(copied, runner, 0.25, keep=False)
    assert not copied.root.with_name("model.profiles").exists()


def test_another_configuration_is_measured_for_itself(copied: Package, runner: OnnxRunner) -> None:
    other = OnnxRunner(copied, threads=2)
    other.reserve(6)
    assert started(copied, runner, 0.25) != started(copied, other, 0.5)


def test_another_model_in_its_place_is_measured_for_itself(copied: Package, runner: OnnxRunner) -> None:
    first = started(copied, runner, 0.25)
    manifest = copied.root / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"version": "9.9.9"}))
    assert started(Package.load(copied.root), runner, 0.5) != first


def test_a_damaged_file_is_measured_again(
    copied: Package, runner: OnnxRunner, caplog: pytest.LogCaptureFixture
) -> None:
    first = started(copied, runner, 0.25)
    (kept,) = copied.root.with_name("model.profiles").iterdir()
    kept.write_bytes(kept.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        assert started(copied, runner, 0.5) != first
    assert str(kept) in caplog.text
    assert started(copied, runner, 0.25) != first, "the file is whole again"


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '[{"entry_block": 0, "width": 1, "seconds": {"1": [0.1]}}]',
        '[{"entry_block": 0, "width": 1, "seconds": {"1": []}}]',
        '[{"entry_block": 0, "width": 1, "seconds": {}}]',
    ],
    ids=["nothing", "one segment", "no timing", "no batch"],
)
def test_a_file_that_lacks_something_is_measured_again(
    copied: Package, runner: OnnxRunner, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    first = started(copied, runner, 0.25)
    (kept,) = copied.root.with_name("model.profiles").iterdir()
    kept.write_text(text)
    with caplog.at_level(logging.WARNING):
        assert started(copied, runner, 0.5) != first
    assert str(kept) in caplog.text


@pytest.mark.parametrize(("batch", "seconds"), [("0", 0.1), ("-5", 0.1), ("3", 0.1), ("2", float("inf")), ("2", -1.0)])
def test_a_file_with_what_cannot_be_is_measured_again(
    copied: Package, runner: OnnxRunner, caplog: pytest.LogCaptureFixture, batch: str, seconds: float
) -> None:
    first = started(copied, runner, 0.25)
    (kept,) = copied.root.with_name("model.profiles").iterdir()
    curves = json.loads(kept.read_text())
    curves[-1]["seconds"][batch] = [seconds]
    kept.write_text(json.dumps(curves))
    with caplog.at_level(logging.WARNING):
        assert started(copied, runner, 0.5) != first
    assert str(kept) in caplog.text


def test_a_folder_that_cannot_be_written_is_no_fault(copied: Package, runner: OnnxRunner) -> None:
    copied.root.with_name("model.profiles").write_bytes(b"in the way")
    assert started(copied, runner, 0.25)
