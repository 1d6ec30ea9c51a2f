"""The channel with real sockets: what an API process hears of an engine elsewhere is what it would hear of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model_core.package import Package
from service.channel.mail import Peer
from service.channel.messages import News, decode_from_engine
from service.channel.remote import RemoteEngine
from service.client import Heard
from service.errors import (
    BudgetError,
    DeadlineMissedError,
    DrainingError,
    EngineLostError,
    QueueFullError,
    ServiceError,
)
from service.request import Budget, Refinement, StopReason, Ticket, Update
from service.runners import Array
from service.state import FrontState
from tests.service.channel import IMAGE, PATIENCE, Far, far_end, near_end, until
from tests.service.engines import images

pytestmark = pytest.mark.anyio


@pytest.fixture
def far(package: Package, tmp_path: Path) -> Iterator[Far]:
    with far_end(package, tmp_path) as (far, _):
        yield far


async def test_a_request_refines_as_it_does_in_one_process(far: Far) -> None:
    done = threading.Event()
    alone: list[Update] = []

    def listen(updates: Sequence[tuple[Ticket, Update]]) -> None:
        alone.extend(update for _, update in updates)
        if len(alone) == 5:
            done.set()

    far.engine.submit(IMAGE, Budget(max_ensemble_size=5), listen)
    assert done.wait(PATIENCE)
    async with near_end(far) as (_, delivery):
        with delivery.submit(IMAGE, Budget(max_ensemble_size=5)) as mailbox:
            await mailbox.admitted()
            refinements = [refinement async for refinement in mailbox]
    last, expected = refinements[-1], alone[-1]
    assert isinstance(expected, Refinement)
    assert (last.ensemble_size, last.stop_reason, last.flops) == (5, StopReason.ENSEMBLE_SIZE, expected.flops)
    np.testing.assert_array_equal(last.probabilities, expected.probabilities)
    assert last.started_at <= last.first_at <= last.at


async def test_everyone_hears_of_the_image_that_was_sent(far: Far) -> None:
    async with near_end(far) as (_, delivery):

        async def probabilities(image: Array) -> Array:
            with delivery.submit(image, Budget(max_ensemble_size=2)) as mailbox:
                return (await mailbox.answer()).probabilities

        alone = [await probabilities(image) for image in images(5)]
        with far.brake.before(0):
            together = [asyncio.create_task(probabilities(image)) for image in images(5)]
            await until(lambda: far.engine.snapshot().admitted == 5)  # the first runs, the others share the next batch
        np.testing.assert_allclose(await asyncio.gather(*together), alone, atol=1e-5)
    assert np.ptp(alone, axis=0).max() > 1e-3, "they differ"


async def test_refusals_are_the_engines_own_errors(package: Package, tmp_path: Path) -> None:
    with far_end(package, tmp_path, max_waiting=1) as (far, _):
        async with near_end(far) as (engine, delivery):
            with delivery.submit(IMAGE, Budget(max_flops=1)) as mailbox, pytest.raises(BudgetError, match="first leaf"):
                await mailbox.admitted()
            with far.brake.before(0), ExitStack() as stack:
                running = stack.enter_context(delivery.submit(IMAGE, Budget()))
                await running.admitted()
                await until(lambda: far.engine.snapshot().waiting == 0)
                waiting = stack.enter_context(delivery.submit(IMAGE, Budget()))
                await waiting.admitted()
                refused = stack.enter_context(delivery.submit(IMAGE, Budget()))
                with pytest.raises(QueueFullError) as full:
                    await refused.admitted()
                assert full.value.retry_after > 0
            far.engine.drain(30)
            with delivery.submit(IMAGE, Budget()) as mailbox, pytest.raises(DrainingError):
                await mailbox.admitted()
            with pytest.raises(DrainingError):
                engine.check_ready()


async def test_who_is_given_up_at_once_was_admitted_like_anybody(far: Far) -> None:
    async with near_end(far) as (engine, delivery):
        with delivery.submit(IMAGE, Budget(deadline=engine.clock() + 1e-6)) as mailbox:
            await mailbox.admitted()
            with pytest.raises(DeadlineMissedError):
                await mailbox.answer()
    await until(lambda: far.metric("hne_deadline_missed_total") == 1)
    assert far.metric("hne_rejections_total", reason="deadline") == 1


async def test_an_image_of_another_shape_harms_one_request(far: Far) -> None:
    async with near_end(far) as (_, delivery):
        with delivery.submit(IMAGE[:, 1:], Budget()) as mailbox, pytest.raises(ServiceError, match="reshape"):
            await mailbox.admitted()
        with delivery.submit(IMAGE, Budget()) as mailbox:
            assert (await mailbox.answer()).stop_reason is StopReason.COMPLETE


async def test_all_that_a_step_did_is_heard_at_once(far: Far) -> None:
    async with near_end(far) as (engine, _):
        calls: list[list[tuple[Ticket, Heard]]] = []
        engine.listen(lambda heard: calls.append(list(heard)))
        with far.brake.before(0):
            engine.submit(IMAGE, Budget(max_ensemble_size=1))
            await until(lambda: far.engine.snapshot().active == 1)
            tickets = {engine.submit(image, Budget(max_ensemble_size=1)).ticket for image in images(4)}
            await until(lambda: far.engine.snapshot().waiting == 4)
        ends: list[set[Ticket]] = []
        async with asyncio.timeout(PATIENCE):
            while not any(tickets <= end for end in ends):  # steps that follow fast can come together
                await asyncio.sleep(0)
                ends = [{ticket for ticket, news in heard if isinstance(news, Refinement)} for heard in calls]


async def test_who_leaves_is_computed_no_further(far: Far) -> None:
    async with near_end(far) as (_, delivery):
        with far.brake.before(2):
            with delivery.submit(IMAGE, Budget()) as mailbox:
                assert (await anext(aiter(mailbox))).ensemble_size <= 2
            await until(lambda: far.metric("hne_inflight_requests") == 0)
        await until(lambda: far.engine.snapshot().active == 0)
    assert far.metric("hne_step_duration_seconds_count", ensemble_size="4", width="1") == 0


CLIENT = """
import asyncio, sys
import numpy as np
from service.channel.remote import RemoteEngine
from service.delivery import Delivery
from service.request import Budget

async def main():
    engine = RemoteEngine(sys.argv[1], sys.argv[2])
    delivery = Delivery(engine)
    engine.start()
    await engine.started()
    mailboxes = [delivery.submit(np.zeros((3, 32, 32), np.float32), Budget()) for _ in range(3)]
    for mailbox in mailboxes:
        await mailbox.admitted()
    print("admitted", "onnxruntime" in sys.modules, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
async def test_an_api_process_that_dies_leaves_nothing_behind(far: Far, end: signal.Signals) -> None:
    command = [sys.executable, "-c", CLIENT, far.address, far.package.sha256]
    with far.brake.before(0), subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().split() == ["admitted", "False"]
            assert far.metric("hne_inflight_requests") == 3
        finally:
            os.kill(process.pid, end)
        await until(lambda: far.metric("hne_inflight_requests") == 0)
    await until(lambda: far.engine.snapshot().active == 0)
    async with near_end(far) as (_, delivery):
        with delivery.submit(IMAGE, Budget()) as mailbox:
            assert (await mailbox.answer()).stop_reason is StopReason.COMPLETE


async def test_when_the_engine_is_gone_everyone_gets_what_there_is(package: Package, tmp_path: Path) -> None:
    with far_end(package, tmp_path) as (far, host):
        async with near_end(far) as (engine, delivery):
            with far.brake.before(1), ExitStack() as stack:
                first = stack.enter_context(delivery.submit(IMAGE, Budget()))
                assert (await anext(aiter(first))).ensemble_size == 1
                await until(lambda: far.engine.snapshot().waiting == 0)
                second = stack.enter_context(delivery.submit(IMAGE, Budget()))
                await second.admitted()
                host.close()
                answer = await first.answer()
                assert (answer.ensemble_size, answer.stop_reason) == (1, StopReason.ERROR)
                with pytest.raises(EngineLostError):
                    await second.answer()
                with pytest.raises(EngineLostError):
                    engine.check_ready()
                with pytest.raises(EngineLostError):
                    await engine.exposition("")


async def test_figures_of_all_api_processes_are_one_exposition(far: Far) -> None:
    async with near_end(far) as (one, first), near_end(far) as (two, second):
        for delivery in (first, second):
            with delivery.submit(IMAGE, Budget(max_ensemble_size=2)) as mailbox:
                await mailbox.answer()
        one.recorder.request(endpoint="/predict", outcome="answered", seconds=0.1, overrun=0.0)
        two.recorder.watch_front(lambda: FrontState(reserve=0.25))
        two.recorder.deadline_missed()
        two.recorder.rejected(QueueFullError(1))
        for engine in (one, two):  # each sends what it has counted before it asks
            text = (await engine.exposition("")).text.decode()
        for sample in (
            'hne_stops_total{reason="ensemble_size"} 2.0',
            'hne_requests_total{endpoint="/predict",outcome="answered"} 1.0',
            "hne_deadline_missed_total 1.0",
            'hne_deadline_overrun_seconds_bucket{le="0.0"} 1.0',
            "hne_front_reserve_seconds 0.25",
            'hne_rejections_total{reason="queue_full"} 1.0',
        ):
            assert sample in text
        assert (await one.exposition("")).text.decode().count("hne_deadline_missed_total 1.0") == 1
        assert await one.snapshot() == replace(far.engine.snapshot(), profile=(await one.snapshot()).profile)


async def test_that_a_lag_is_over_is_told_though_nothing_happens(far: Far) -> None:
    async with near_end(far) as (engine, _):
        front = FrontState(lag=0.05)
        engine.recorder.watch_front(lambda: front)
        engine.recorder.deadline_missed()
        await until(lambda: far.metric("hne_front_lag_seconds") == 0.05)
        front = FrontState()
        await until(lambda: far.metric("hne_front_lag_seconds") == 0.0)


async def test_a_package_that_was_changed_meanwhile_is_not_served(far: Far) -> None:
    useless = asyncio.Event()
    engine = RemoteEngine(far.address, "another", on_useless=useless.set)
    engine.start()
    try:
        await engine.started()
        for _ in range(2):
            with pytest.raises(ServiceError, match="changed") as refused:
                engine.check_ready()
            assert len(refused.traceback) == 2, "a frame here and one there, however many were refused before"
        assert useless.is_set()
    finally:
        await engine.close()


def test_of_what_nobody_reads_only_the_latest_is_kept() -> None:
    peer = Peer(b"peer", ring=lambda: None)
    tickets = [Ticket(number) for number in range(2)]
    for number, ticket in enumerate(tickets):
        peer.admit(number, ticket)
    for size in range(1, 17):
        refinement = Refinement(
            ensemble_size=size,
            flops=size,
            probabilities=np.full(10, size, np.float32),
            stop_reason=StopReason.COMPLETE if size == 16 else None,
            started_at=0.0,
            first_at=0.0,
            at=float(size),
        )
        peer.listen([(ticket, refinement) for ticket in tickets])
        peer.collect()
        assert peer.unread == 4  # two admissions, two updates
    assert not peer.tickets, "both have ended"
    head, body = peer.news(draining=False)
    news = decode_from_engine(head)
    assert isinstance(news, News)
    assert [(refined.number, refined.ensemble_size) for refined in news.refined] == [(0, 16), (1, 16)]
    np.testing.assert_array_equal(np.asarray(body), np.full((2, 10), 16, np.float32))
    peer.told(draining=False)
    assert not peer.has_news(draining=False)
