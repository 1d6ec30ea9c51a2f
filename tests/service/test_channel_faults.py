"""The channel when one end does not read, says nonsense, or leaves with something still to say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import zmq.asyncio
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from model_core.package import Package
from service.channel.messages import Failed, Hello, News, Notes, Submit, Welcome, decode_from_engine, encode
from service.channel.remote import RemoteEngine
from service.channel.reports import Reports
from service.errors import EngineLostError, ServiceError
from service.request import Budget
from service.state import FrontState
from tests.service.channel import IMAGE, PATIENCE, Far, far_end, near_end, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def far(package: Package, tmp_path: Path) -> Iterator[Far]:
    with far_end(package, tmp_path) as (far, _):
        yield far


async def test_of_who_does_not_read_no_more_is_taken_and_all_that_was_is_told(far: Far) -> None:
    sent, image, late = 20_000, np.zeros_like(IMAGE).tobytes(), Budget(deadline=far.engine.clock())

    def missed() -> float:
        return far.metric("hne_rejections_total", reason="deadline") or 0.0

    with zmq.asyncio.Context() as context, context.socket(zmq.DEALER) as peer:
        peer.set(zmq.RCVHWM, 1)
        peer.set(zmq.LINGER, 0)
        peer.connect(far.address)

        async def failed() -> list[Failed]:
            """Of one message."""
            message = decode_from_engine((await peer.recv_multipart())[0])
            return message.failed if isinstance(message, News) else []

        async with asyncio.timeout(PATIENCE):
            await peer.send(encode(Hello()))
            for number in range(sent):  # each misses its deadline, or finds no place
                await peer.send_multipart([encode(Submit(number, late)), image])
            await peer.send(encode(Notes([], [], FrontState(lag=0.5))))  # which is always taken: all before it was read
            await until(lambda: far.metric("hne_front_lag_seconds") == 0.5 and far.engine.snapshot().active == 0)
            told: list[Failed] = []
            while sum(failure.fault.kind == "DeadlineMissedError" for failure in told) < missed():
                told.extend(await failed())
            numbers = sorted(failure.number for failure in told)
            assert numbers == list(range(len(numbers)))
            assert len(numbers) < sent
            for number in count(sent):  # it reads again, so it is heard again
                await peer.send_multipart([encode(Submit(number, late)), image])
                if any(failure.number >= sent for failure in await failed()):
                    break


async def test_a_question_that_cannot_be_answered_is_said_to_be(far: Far) -> None:
    class Broken(Collector):
        def collect(self) -> Iterable[Metric]:
            raise RuntimeError("no figures")

    async with near_end(far) as (engine, _):
        far.engine.recorder.registry.register(Broken())
        with pytest.raises(ServiceError, match="could not answer"):
            await engine.exposition("")
        assert (await engine.snapshot()).active == 0


async def test_what_was_counted_last_arrives(far: Far) -> None:
    async with near_end(far) as (engine, _):
        engine.recorder.deadline_missed()
    await until(lambda: far.metric("hne_deadline_missed_total") == 1)


async def test_notes_that_did_not_go_out_are_tried_again() -> None:
    taken: list[Notes] = []
    tries = count()

    def send(notes: Notes) -> bool:
        if next(tries) < 2:
            return False
        taken.append(notes)
        return True

    reports = Reports(send)
    reports.cancelled(7)
    reports.deadline_missed()
    await until(lambda: bool(taken))
    assert (taken[0].cancelled, len(taken[0].events)) == ([7], 1)
    reports.stop()


@asynccontextmanager
async def impostor(folder: Path, *words: bytes) -> AsyncIterator[tuple[RemoteEngine, zmq.asyncio.Socket, list[str]]]:
    """An API process whose engine process only ever says `words`, and whether it is of no use any more."""
    useless: list[str] = []
    address = f"ipc://{folder / 'impostor'}"
    with zmq.asyncio.Context() as context, context.socket(zmq.ROUTER) as router:
        router.set(zmq.LINGER, 0)
        router.bind(address)
        engine = RemoteEngine(address, "digest", on_useless=lambda: useless.append("useless"))
        engine.start()
        try:
            async with asyncio.timeout(PATIENCE):
                identity, _ = await router.recv_multipart()
                for word in words:
                    await router.send_multipart([identity, word])
                await engine.started()
                yield engine, router, useless
        finally:
            await engine.close()


async def test_an_engine_that_cannot_be_understood_is_lost(tmp_path: Path) -> None:
    async with impostor(tmp_path, b"\xc1") as (engine, _, useless):
        with pytest.raises(EngineLostError):
            engine.check_ready()
        assert useless


async def test_who_waits_for_an_answer_hears_that_the_engine_is_lost(tmp_path: Path) -> None:
    async with impostor(tmp_path, encode(Welcome("digest"))) as (engine, router, _):
        asked = asyncio.create_task(engine.snapshot())
        await router.recv_multipart()  # ready
        await router.recv_multipart()  # notes, and the question after them
        router.close()
        with pytest.raises(EngineLostError):
            await asked
