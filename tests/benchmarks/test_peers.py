"""Other servers: their graphs compute what the package computes, and the plain one answers as our service does."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image

from benchmarks.load.dialects import Predict
from benchmarks.peers.fastapi_server import create_app
from benchmarks.peers.graphs import prefix_logits, write_graph
from benchmarks.peers.record import Cell, Record
from benchmarks.peers.workload import Workload
from benchmarks.peers.yardstick import Yardstick
from model_core.package import Package
from service.app import create_app as create_service
from service.settings import load_settings
from training.export import run_steps

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def graphs(tiny_package: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Graphs by their number of networks."""
    folder = tmp_path_factory.mktemp("graphs")
    found = {size: folder / f"{size}.onnx" for size in (1, 3, 16)}
    for size, path in found.items():
        write_graph(Package.load(tiny_package), size, path)
    return found


def workload(package: Path, graph: Path, size: int) -> Workload:
    return Workload(
        package=str(package),
        graph=str(graph),
        size=size,
        port=0,
        cores=1,
        threads=1,
        deadline_ms=1000,
        queue_ms=1000,
        max_batch=4,
        batch_wait_ms=0,
    )


@pytest.mark.parametrize("size", [1, 3, 16])
def test_a_graph_gives_the_logits_of_the_packages_steps(tiny_package: Path, graphs: dict[int, Path], size: int) -> None:
    package = Package.load(tiny_package)
    images = np.random.default_rng(size).standard_normal((5, *package.manifest.spec.input_shape), np.float32)
    session = ort.InferenceSession(graphs[size], providers=["CPUExecutionProvider"])
    logits, probabilities = map(np.asarray, session.run(["logits", "probabilities"], {"x": images}))
    expected = run_steps(package.root, package.manifest.spec.tree, images)[size - 1]
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    np.testing.assert_allclose(prefix_logits(package, size, images), expected, atol=1e-4)
    exponentials = np.exp(expected / package.manifest.table[size - 1].temperature)
    np.testing.assert_allclose(probabilities, exponentials / exponentials.sum(1, keepdims=True), atol=1e-5)


@pytest.fixture
async def ours(tiny_package: Path) -> AsyncIterator[httpx.AsyncClient]:
    app = create_service(
        load_settings(["--model", str(tiny_package), "--threads", "1", "--profile-seconds", "0.1"], {})
    )
    async with app.router.lifespan_context(app), _client(app) as client:
        await app.state.service.started()
        yield client


def photos(count: int) -> list[bytes]:
    """JPEGs, seeded."""
    encoded = []
    for pixels in np.random.default_rng(7).integers(0, 256, (count, 40, 36, 3), np.uint8):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=90)
        encoded.append(file.getvalue())
    return encoded


def _client(app: object) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 16])
async def test_the_plain_peer_answers_as_our_service_does(
    tiny_package: Path, graphs: dict[int, Path], ours: httpx.AsyncClient, size: int
) -> None:
    peer = create_app(workload(tiny_package, graphs[size], size))
    async with peer.router.lifespan_context(peer), _client(peer) as client:
        for image in photos(8):
            answer = (await client.post("/predict", content=image)).content
            expected = await ours.post(
                f"/predict?max_ensemble_size={size}", content=image, headers={"Content-Type": "image/jpeg"}
            )
            assert Predict().prediction(answer) == Predict().prediction(expected.content)
            first, wanted = (
                body["predictions"][0] for body in (httpx.Response(200, content=answer).json(), expected.json())
            )
            assert first["class_id"] == wanted["class_id"]
            assert first["probability"] == pytest.approx(wanted["probability"], abs=1e-4)


def test_a_workload_reaches_a_server_through_its_environment(tmp_path: Path) -> None:
    given = workload(tmp_path, tmp_path / "graph.onnx", 16)
    assert Workload.told(given.environment()) == given


def test_batches_are_the_largest_of_which_two_fit_into_the_deadline() -> None:
    times = {"1": 4.0, "2": 6.0, "4": 10.0, "8": 18.0, "16": 34.0, "32": 66.0}
    yardstick = Yardstick(full_ms=times, single_ms=times)
    assert [yardstick.max_batch(True, deadline) for deadline in (5, 8, 19.9, 20, 36, 1000)] == [1, 1, 2, 4, 8, 32]
    assert yardstick.capacity == pytest.approx(32 / 0.066)


def test_an_interrupted_run_keeps_its_cells_and_refuses_another_runs(tmp_path: Path) -> None:
    path, cell = tmp_path / "peers.json", Cell(server="ray", networks=16, deadline="3x", rho=0.3)
    Record(path, {"seed": 0, "seconds": 6.0}).add(cell, {"goodput": 0.5})
    resumed = Record(path, {"seed": 0, "seconds": 6.0})
    assert resumed.find(cell) == {
        "server": "ray",
        "networks": 16,
        "deadline": "3x",
        "rho": 0.3,
        "repeat": 0,
        "goodput": 0.5,
    }
    assert resumed.find(Cell(server="ray", networks=1, deadline="3x", rho=0.3)) is None
    with pytest.raises(SystemExit, match="seconds"):
        Record(path, {"seed": 0, "seconds": 2.0})


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"rows": [{"server": "ray"}]}'])
def test_a_damaged_record_is_named_and_kept(tmp_path: Path, text: str) -> None:
    path = tmp_path / "peers.json"
    path.write_text(text)
    with pytest.raises(SystemExit, match=r"peers\.json is damaged or of another version"):
        Record(path, {"seed": 0})
    assert path.read_text() == text
