"""Who has the engine to itself for a moment is computed on the spot, on the thread that submits."""

import asyncio
import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest

import service.submission
from model_core.package import Package
from model_core.tree import Segment
from service.engine import Engine, EngineSettings
from service.metrics import Recorder
from service.request import Budget, Failure, Refinement, Ticket, Update
from service.runners.base import Array, Rows
from service.runners.onnx import OnnxRunner
from service.strain import RECENT
from tests.service.bodies import JPEG, encoded
from tests.service.conftest import Served, Serving
from tests.service.engines import STEP, Bench, images

ONE = Budget(max_ensemble_size=1)
PATIENCE = 30
"""Seconds for what takes milliseconds."""


FIRST = 5.5 * STEP
"""Seconds in which a first step of five blocks is through, but not a second one."""


def test_who_is_alone_is_through_when_submit_returns(bench: Bench) -> None:
    for image in images(2):
        ticket = bench.engine.submit(image, ONE, bench.listen, within=FIRST)
        assert bench.last(ticket).ensemble_size == 1
    assert bench.runner.batches == [(0, 1), (0, 1)]
    assert bench.engine.snapshot().active == 0
    assert not bench.engine.step()


def test_who_comes_meanwhile_is_left_to_the_engines_thread(bench: Bench) -> None:
    others: list[Ticket] = []

    def come(segment: Segment) -> None:
        bench.runner.before = lambda segment: None
        others.append(bench.engine.submit(images(1)[0], ONE, bench.listen, within=FIRST))

    bench.runner.before = come
    ticket = bench.engine.submit(images(1)[0], ONE, bench.listen, within=FIRST)
    assert bench.last(ticket).ensemble_size == 1
    assert others[0] not in bench.heard
    bench.run()
    assert bench.last(others[0]).ensemble_size == 1


def waits(bench: Bench) -> None:
    bench.engine.submit(images(1)[0], Budget(), bench.listen)


def has_failed(bench: Bench) -> None:
    def fail(segment: Segment) -> None:
        bench.runner.before = lambda segment: None
        raise RuntimeError

    bench.runner.before = fail
    bench.engine.submit(images(1)[0], ONE, bench.listen)
    bench.engine.step()


@pytest.mark.parametrize(
    ("before", "within"),
    [
        pytest.param(lambda bench: None, 0.0, id="not-asked-for"),
        pytest.param(lambda bench: None, 4 * STEP, id="takes-longer"),
        pytest.param(waits, FIRST, id="somebody-waits"),
        pytest.param(has_failed, FIRST, id="the-engine-fails"),
    ],
)
def test_everyone_else_waits_for_the_engines_thread(
    bench: Bench, before: Callable[[Bench], None], within: float
) -> None:
    before(bench)
    ticket = bench.engine.submit(images(1)[0], ONE, bench.listen, within=within)
    assert ticket not in bench.heard
    bench.run()
    assert bench.last(ticket).ensemble_size == 1


def test_what_takes_longer_than_the_first_leaf_may_is_left_to_the_engines_thread(bench: Bench) -> None:
    ticket = bench.engine.submit(images(1)[0], Budget(max_ensemble_size=3), bench.listen, within=FIRST)
    assert bench.last(ticket).ensemble_size == 1
    assert bench.last(ticket).stop_reason is None
    bench.run()
    assert bench.last(ticket).ensemble_size == 3
    assert bench.runner.batches == [(0, 1), (1, 1), (2, 1)], "nothing twice"


def test_what_nobody_waits_for_is_booked_later(bench: Bench) -> None:
    waiting: list[Callable[[], None]] = []
    ticket = bench.engine.submit(images(1)[0], ONE, bench.listen, within=FIRST, later=waiting.append)
    assert bench.last(ticket).ensemble_size == 1
    counted = ("hne_step_batch_size_count", "hne_queue_duration_seconds_count", "hne_first_prediction_seconds_count")
    assert [bench.metric(name) for name in counted] == [0, 0, 0]
    (book,) = waiting
    book()
    assert [bench.metric(name) for name in counted] == [1, 1, 1]


def test_a_device_is_left_to_the_thread_that_knows_it(bench: Bench) -> None:
    bench.runner.name = "pytorch-cuda"
    recorder = Recorder(bench.package, type(bench.registry)())
    engine = Engine(bench.package, bench.runner, settings=EngineSettings(profile_seconds=0.01), recorder=recorder)
    ticket = engine.submit(images(1)[0], ONE, bench.listen, within=FIRST)
    assert ticket not in bench.heard


def test_a_step_that_fails_on_the_spot_is_the_requests_failure(bench: Bench) -> None:
    def fail(segment: Segment) -> None:
        raise RuntimeError("broken")

    bench.runner.before = fail
    ticket = bench.engine.submit(images(1)[0], ONE, bench.listen, within=FIRST)
    assert "broken" in str(bench.failure(ticket).error)
    assert bench.engine.snapshot().active == 0


class Exclusive(OnnxRunner):
    """Computes for one thread at a time, or says so."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.threads: set[str] = set()
        self.overlaps = 0
        self._computing = threading.Lock()

    def run(self, segment: Segment, rows: Rows, images: Array | None = None, *, until: int | None = None) -> Array:
        if not self._computing.acquire(blocking=False):
            self.overlaps += 1
            return super().run(segment, rows, images, until=until)
        try:
            self.threads.add(threading.current_thread().name)
            return super().run(segment, rows, images, until=until)
        finally:
            self._computing.release()


def test_nobody_computes_beside_anybody(bench: Bench) -> None:
    runner, recorder = Exclusive(bench.package), Recorder(bench.package, type(bench.registry)())
    limits = EngineSettings(profile_seconds=0.01, max_batch=8)
    engine = Engine(bench.package, runner, settings=limits, recorder=recorder)
    ends: dict[Ticket, Update] = {}
    through = threading.Semaphore(0)

    def listen(updates: Sequence[tuple[Ticket, Update]]) -> None:
        for ticket, update in updates:
            if isinstance(update, Failure) or update.stop_reason is not None:
                assert ends.setdefault(ticket, update) is update
                through.release()

    def client(seed: int) -> None:
        for number, image in enumerate(images(20, seed)):
            size = 1 + (number + seed) % 3
            engine.submit(image, Budget(max_ensemble_size=size), listen, within=np.inf)
            assert through.acquire(timeout=PATIENCE)

    runner.threads.clear()
    engine.start()
    clients = [threading.Thread(target=client, args=(seed,), name="client") for seed in range(3)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    engine.close()
    assert len(ends) == 60
    assert all(isinstance(end, Refinement) for end in ends.values())
    assert runner.overlaps == 0
    assert "client" in runner.threads


def test_closing_waits_for_who_computes_on_the_spot(package: Package) -> None:
    bench = Bench(package, OnnxRunner(package))  # that it closes
    computing, go_on = threading.Event(), threading.Event()

    def hold(segment: Segment) -> None:
        computing.set()
        assert go_on.wait(PATIENCE)

    bench.runner.before = hold
    client = threading.Thread(
        target=bench.engine.submit, args=(images(1)[0], ONE, bench.listen), kwargs={"within": np.inf}
    )
    client.start()
    assert computing.wait(PATIENCE)
    assert not bench.engine.step(), "somebody computes already"
    closing = threading.Thread(target=bench.engine.close)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()
    go_on.set()
    for thread in (closing, client):
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.mark.anyio
async def test_a_client_that_is_alone_is_computed_on_the_event_loop(
    serving: Serving, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.submission, "ALONE_SECONDS", np.inf)
    monkeypatch.setattr(service.submission, "QUICK_SECONDS", 0.0)
    async with serving() as served:
        threads: list[str] = []
        watch(served, threads)

        async def ask() -> None:
            response = await served.client.post("/predict?max_ensemble_size=1", content=photo, headers=JPEG)
            assert response.status_code == 200

        await ask()
        assert threads == ["hne-engine"], "one request shows nothing"
        for _ in range(RECENT + 8):  # the engine's own thread may still be at its last batch
            await ask()
        assert threads[-1] == threading.current_thread().name
        threads.clear()
        body = {"images": [encoded(photo)] * 2, "max_ensemble_size": 1}
        assert (await served.client.post("/predict", json=body)).status_code == 200
        assert set(threads) == {"hne-engine"}, "several images are better off in a batch"


@pytest.mark.anyio
async def test_a_step_that_is_quick_is_computed_on_the_event_loop_for_anybody(
    serving: Serving, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.submission, "QUICK_SECONDS", np.inf)
    async with serving() as served:
        threads: list[str] = []
        watch(served, threads)
        assert (await served.client.post("/predict", content=photo, headers=JPEG)).json()["ensemble_size"] == 16
        assert set(threads) == {threading.current_thread().name}
        threads.clear()
        assert (await served.client.post("/predict/stream", content=photo, headers=JPEG)).status_code == 200
        assert set(threads) == {"hne-engine"}, "a stream shows what is computed meanwhile"


@pytest.mark.anyio
@pytest.mark.parametrize(("hurry", "expected"), [(0.0, True), (np.inf, False)])
async def test_who_has_time_shares_steps_with_those_who_wait_for_their_turn(
    serving: Serving, photo: bytes, monkeypatch: pytest.MonkeyPatch, hurry: float, expected: bool
) -> None:
    monkeypatch.setattr(service.submission, "QUICK_SECONDS", np.inf)
    monkeypatch.setattr(service.submission, "HURRY_SECONDS", hurry)
    async with serving() as served:
        threads: list[str] = []
        watch(served, threads)
        path, crowd = "/predict?max_ensemble_size=1", 2 * service.submission.CROWD
        asked = [served.client.post(path, content=photo, headers=JPEG) for _ in range(crowd)]
        assert {response.status_code for response in await asyncio.gather(*asked)} == {200}
        assert ("hne-engine" in threads) is expected


def watch(served: Served, threads: list[str]) -> None:
    """Note on which thread each step runs."""
    run = served.brake.run

    def noted(segment: Segment, rows: Rows, images: Array | None = None, *, until: int | None = None) -> Array:
        threads.append(threading.current_thread().name)
        return run(segment, rows, images, until=until)

    served.brake.run = noted  # type: ignore[method-assign]
