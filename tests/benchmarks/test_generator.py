"""The generator against a real server, and against none."""

import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from benchmarks.client import Client
from benchmarks.load.dialects import Ask, Predict, PredictStream
from benchmarks.load.generator import offer
from benchmarks.load.outcomes import LOST, summary
from benchmarks.load.plan import Plan, constant, draw_plan
from benchmarks.served import served


@pytest.fixture(scope="module")
def url(tiny_package: Path) -> Iterator[str]:
    with served(
        tiny_package, "--threads", "1", "--profile-seconds", "0.1", "--keep-profile", "false", "--runner", "cpu"
    ) as (url, _):
        yield url


def plan(deadline: float = np.inf) -> Plan:
    return draw_plan(constant(60.0, 0.5), deadlines=[deadline], images=8, seed=1)


def test_every_request_has_its_outcome_in_the_order_of_the_plan(url: str, images: list[tuple[str, bytes]]) -> None:
    drawn = plan()
    outcomes = offer(url, drawn, images, Predict())
    assert [outcome.intended for outcome in outcomes] == drawn.arrivals.tolist()
    assert {(o.status, o.ensemble_size) for o in outcomes} == {(200, 16)}
    assert all(o.intended <= o.sent < o.answered for o in outcomes)


def test_what_is_correct_depends_on_the_label(url: str, images: list[tuple[str, bytes]]) -> None:
    with closing(Client(url)) as client:
        labels = [client.predict(data).label or "" for _, data in images]
    half = [
        (label if index < 2 else "another", data)
        for index, (label, (_, data)) in enumerate(zip(labels, images, strict=True))
    ]
    drawn = plan()
    outcomes = offer(url, drawn, half, Predict())
    assert [outcome.correct for outcome in outcomes] == [image < 2 for image in drawn.images]


def test_options_and_deadlines_reach_the_server(url: str, images: list[tuple[str, bytes]]) -> None:
    shallow = offer(url, plan(), images, Predict(options="max_ensemble_size=2"))
    assert {outcome.ensemble_size for outcome in shallow} == {2}
    hopeless = offer(url, plan(1e-5), images, Predict())
    assert summary(hopeless, 0.5)["missed"] == len(hopeless)


def test_the_first_prediction_of_a_stream_comes_before_its_end(url: str, images: list[tuple[str, bytes]]) -> None:
    outcomes = offer(url, plan(), images, PredictStream())
    assert {(o.status, o.ensemble_size) for o in outcomes} == {(200, 16)}
    assert all(o.sent < o.first <= o.answered for o in outcomes)


def test_an_answer_that_is_no_prediction_is_a_failure(url: str, images: list[tuple[str, bytes]]) -> None:
    class Misread(Predict):
        def ask(self, image: bytes, deadline: float) -> Ask:
            return Ask(path="/predict/stream", body=image, headers={"Content-Type": "image/jpeg"})

    outcomes = offer(url, plan(), images, Misread())
    assert summary(outcomes, 0.5)["failed"] == len(outcomes)


@contextmanager
def silent(heard: list[float]) -> Iterator[str]:
    """The address of a server that takes down the instant (`time.perf_counter`) of each request and answers none."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with suppress(ConnectionError):
                self.rfile.readline()
                heard.append(time.perf_counter())
                self.rfile.read()  # until the client hangs up

    class Server(socketserver.ThreadingTCPServer):
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_no_request_waits_for_the_answer_to_an_earlier_one(images: list[tuple[str, bytes]]) -> None:
    drawn, heard, patience = plan(), list[float](), 3.0
    with silent(heard) as url:
        start = time.perf_counter() + 0.5
        outcomes = offer(url, drawn, images, Predict(), patience=patience, start=start)
    assert {outcome.status for outcome in outcomes} == {LOST}
    # Who waits sends `patience` late; a busy machine is far from that.
    assert max(outcome.sent - outcome.intended for outcome in outcomes) < patience / 3
    assert len(heard) == len(drawn)
    assert max(np.sort(heard) - start - drawn.arrivals) < patience / 3


def test_a_server_that_never_answers_loses_every_request(images: list[tuple[str, bytes]]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        outcomes = offer(url, plan(), images, Predict(), patience=0.2)
    assert {outcome.status for outcome in outcomes} == {LOST}
    assert {outcome.status for outcome in offer(url, plan(), images, Predict())} == {LOST}  # nobody listens any more
