import asyncio
from collections.abc import Awaitable, Callable
from math import inf

import pytest

from model_core.tree import Segment
from service.delivery import Delivery
from service.errors import DeadlineMissedError, DrainingError, QueueFullError, RunnerError
from service.local import LocalEngine
from service.request import Budget, Priority, Refinement, StopReason
from tests.service.engines import Bench, MakeBench, images

IMAGE = images(1)[0]
SOON = 0.01
"""Real seconds until a deadline that a test waits for."""


def on_loop(test: Callable[[Delivery], Awaitable[None]], bench: Bench) -> None:
    async def main() -> None:
        engine = LocalEngine(lambda: bench.engine, bench.engine.recorder, clock=bench.clock)
        engine.attach(bench.engine)
        await test(Delivery(engine))

    asyncio.run(main())


def test_the_answer_is_the_whole_ensemble_when_nothing_forbids_it(bench: Bench) -> None:
    async def test(delivery: Delivery) -> None:
        with delivery.submit(IMAGE, Budget()) as mailbox:
            assert mailbox.latest is None
            bench.run()
            answer = await mailbox.answer()
            assert (answer.ensemble_size, answer.stop_reason) == (16, StopReason.COMPLETE)
            assert mailbox.latest is answer
            assert await mailbox.next() is None

    on_loop(test, bench)
    assert bench.metric("hne_stops_total", reason="complete") == 1
    assert bench.metric("hne_ensemble_size_sum") == 16


def test_what_is_computed_on_the_spot_is_there_when_it_is_handed_over(bench: Bench) -> None:
    async def test(delivery: Delivery) -> None:
        mailbox = delivery.submit(IMAGE, Budget(max_ensemble_size=1), within=inf)
        assert mailbox.ended
        assert (await mailbox.answer()).stop_reason is StopReason.ENSEMBLE_SIZE
        await asyncio.sleep(0)
        assert await mailbox.next() is None, "it is told once"

    on_loop(test, bench)
    assert bench.metric("hne_stops_total", reason="ensemble_size") == 1


def test_who_loses_the_place_to_one_that_is_handed_over_hears_of_it(make: MakeBench) -> None:
    bench = make(max_waiting=1)

    async def test(delivery: Delivery) -> None:
        low = delivery.submit(IMAGE, Budget(priority=Priority.LOW))
        high = delivery.submit(IMAGE, Budget(max_ensemble_size=1, priority=Priority.HIGH))
        with pytest.raises(QueueFullError):
            await low.answer()
        bench.run()
        assert (await high.answer()).ensemble_size == 1

    on_loop(test, bench)


def test_a_reader_that_keeps_up_sees_every_refinement(bench: Bench) -> None:
    async def test(delivery: Delivery) -> None:
        with delivery.submit(IMAGE, Budget(max_ensemble_size=5)) as mailbox:
            bench.engine.step()
            sizes = []
            async for refinement in mailbox:
                sizes.append((refinement.ensemble_size, refinement.stop_reason))
                bench.engine.step()
            assert sizes == [(1, None), (2, None), (3, None), (4, None), (5, StopReason.ENSEMBLE_SIZE)]

    on_loop(test, bench)


def test_a_slow_reader_skips_to_the_latest(bench: Bench) -> None:
    async def test(delivery: Delivery) -> None:
        with delivery.submit(IMAGE, Budget()) as mailbox:
            for _ in range(7):
                bench.engine.step()
            first = await mailbox.next()
            assert first is not None
            assert first.ensemble_size == 7
            bench.run()
            assert [refinement.ensemble_size async for refinement in mailbox] == [16]

    on_loop(test, bench)


def test_waiting_has_an_end_without_one_for_the_request(bench: Bench) -> None:
    async def test(delivery: Delivery) -> None:
        with delivery.submit(IMAGE, Budget()) as mailbox:
            assert await mailbox.next(timeout=0.001) is None
            bench.engine.step()
            refinement = await mailbox.next(timeout=10)
            assert refinement is not None
            assert refinement.ensemble_size == 1

    on_loop(test, bench)


@pytest.mark.parametrize("how", ["answer", "next"])
def test_an_engine_that_stalls_makes_no_answer_late_that_has_a_leaf(bench: Bench, how: str) -> None:
    async def test(delivery: Delivery) -> None:
        with delivery.submit(IMAGE, Budget(deadline=bench.clock.now + 0.02 + SOON)) as mailbox:
            for _ in range(2):
                bench.engine.step()
            if how == "answer":
                answer = await mailbox.answer()
            else:
                answer = [refinement async for refinement in mailbox][-1]
            assert (answer.ensemble_size, answer.stop_reason) == (2, StopReason.DEADLINE)
            assert bench.engine.snapshot().active == 0, "nobody waits for more"

    on_loop(test, bench)
    assert bench.metric("hne_stops_total", reason="deadline") == 1


def test_with_a_leaf_it_ends_when_refinements_were_to_end(bench: Bench) -> None:
    async def test(delivery: Delivery) -> None:
        now = bench.clock.now
        with delivery.submit(IMAGE, Budget(deadline=now + 60, refine_by=now + SOON)) as mailbox:
            bench.engine.step()
            answer = await mailbox.answer()
            assert (answer.ensemble_size, answer.stop_reason) == (1, StopReason.DEADLINE)
            assert answer.ended_at == now + SOON
            assert bench.engine.snapshot().active == 0, "nobody waits for more"

    on_loop(test, bench)


@pytest.mark.parametrize("deadline", [60, None])
def test_a_first_leaf_may_come_when_refinements_were_to_end_and_is_the_answer(
    bench: Bench, deadline: float | None
) -> None:
    async def test(delivery: Delivery) -> None:
        now = bench.clock.now
        budget = Budget(deadline=None if deadline is None else now + deadline, refine_by=now + SOON)
        with delivery.submit(IMAGE, budget) as mailbox:
            assert await mailbox.next(timeout=3 * SOON) is None
            bench.engine.step()
            answer = await mailbox.answer()
            assert (answer.ensemble_size, answer.stop_reason) == (1, StopReason.DEADLINE)
            assert bench.engine.snapshot().active == 0, "nobody waits for more"

    on_loop(test, bench)


@pytest.mark.parametrize("refine_by", [SOON, 60])
def test_without_a_leaf_it_ends_at_the_deadline_whenever_refinements_were_to_end(
    bench: Bench, refine_by: float
) -> None:
    async def test(delivery: Delivery) -> None:
        now = bench.clock.now
        budget = Budget(deadline=now + 2 * SOON, refine_by=now + refine_by)
        with delivery.submit(IMAGE, budget) as mailbox, pytest.raises(DeadlineMissedError):
            async with asyncio.timeout(30):
                await mailbox.answer()

    on_loop(test, bench)


@pytest.mark.parametrize("how", ["answer", "next"])
def test_an_end_that_comes_together_with_the_deadline_keeps_its_reason(bench: Bench, how: str) -> None:
    async def test(delivery: Delivery) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + SOON
        budget = Budget(deadline=bench.clock.now + SOON, max_ensemble_size=1)
        with delivery.submit(IMAGE, budget) as mailbox:
            waiting = asyncio.ensure_future(getattr(mailbox, how)())
            await asyncio.sleep(0)
            bench.run()
            while loop.time() < due + SOON:  # the loop is kept from both
                pass
            assert (await waiting).stop_reason is StopReason.ENSEMBLE_SIZE

    on_loop(test, bench)


@pytest.mark.parametrize("how", ["answer", "next"])
def test_without_a_leaf_the_deadline_is_missed(bench: Bench, how: str) -> None:
    async def test(delivery: Delivery) -> None:
        budget = Budget(deadline=bench.clock.now + SOON)
        with delivery.submit(IMAGE, budget) as mailbox, pytest.raises(DeadlineMissedError):
            await getattr(mailbox, how)()
        assert not bench.engine.step(), "its work is not done in vain"

    on_loop(test, bench)
    assert bench.metric("hne_deadline_missed_total") == 1
    assert bench.metric("hne_ensemble_size_count") == 0


def test_leaving_the_block_cancels(bench: Bench) -> None:
    async def test(delivery: Delivery) -> None:
        with delivery.submit(IMAGE, Budget()):
            bench.engine.step()
            assert bench.engine.snapshot().active == 1
        assert bench.engine.snapshot().active == 0

    on_loop(test, bench)


def test_failures_reach_the_reader(bench: Bench) -> None:
    def broken(segment: Segment) -> None:
        raise RunnerError(bench.package.step(segment.start), "broken")

    async def test(delivery: Delivery) -> None:
        bench.runner.before = broken
        with delivery.submit(IMAGE, Budget()) as mailbox:
            bench.engine.step()
            with pytest.raises(RunnerError, match="broken"):
                await mailbox.answer()
        with delivery.submit(IMAGE, Budget()) as mailbox:
            bench.engine.drain(0)
            with pytest.raises(DrainingError):
                await mailbox.next()

    on_loop(test, bench)


def test_one_wake_up_per_step_serves_all_mailboxes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(delivery: Delivery) -> None:
        loop = asyncio.get_running_loop()
        wake_up, wake_ups = loop.call_soon_threadsafe, []

        def counted(callback: Callable[..., object], *arguments: object) -> asyncio.Handle:
            wake_ups.append(callback)
            return wake_up(callback, *arguments)

        monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
        mailboxes = [delivery.submit(image, Budget(max_ensemble_size=1)) for image in images(4)]
        waiting = [asyncio.ensure_future(mailbox.answer()) for mailbox in mailboxes]
        bench.engine.step()
        assert len(wake_ups) == 1
        answers: list[Refinement] = await asyncio.gather(*waiting)
        assert {answer.at for answer in answers} == {bench.clock.now}

    on_loop(test, bench)
    assert bench.runner.batches == [(0, 4)]


def test_a_closed_loop_does_not_harm_the_engine(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    async def test(delivery: Delivery) -> None:
        delivery.submit(IMAGE, Budget())

    on_loop(test, bench)
    bench.run()
    assert bench.engine.snapshot().active == 0
    messages = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert messages == [("WARNING", "the event loop is closed: 1 updates have no reader")] * 16
