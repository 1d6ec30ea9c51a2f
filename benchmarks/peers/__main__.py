"""Our service against others, on the same cores, load and networks, over HTTP.

    python -m benchmarks.peers --images cifar10/test

Each peer serves the full ensemble, then the single network, as one ONNX graph, with our decoding and session options
and as many threads, set up as its documentation advises (each `*_server.py` says how). Whether one thread or all share
a batch is what served it better in a pilot; ours finds that out by itself. Measured are what a request costs beside its
work (one at a time, the single network, no batching), and goodput in an open loop: answers that are correct and on time
over requests offered. Rho is relative to what the full ensemble's graph does in a process of its own at its best batch
size. An interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.command import add_images, add_output, positive_float, positive_int, run
from benchmarks.conditions import code, machine
from benchmarks.labelled import check_labels, labelled_images
from benchmarks.peers.graphs import write_graph
from benchmarks.peers.measurements import Bench
from benchmarks.peers.record import Record
from benchmarks.peers.report import plot, print_tables
from benchmarks.peers.servers import OURS, SERVERS, Server, ServerError, environment_of, versions
from benchmarks.peers.workload import Workload
from benchmarks.peers.yardstick import Yardstick, measured
from model_core.errors import PackageError
from model_core.package import Package
from service.processors import processors
from service.settings import shipped_model

CLIENT = "httptools"
"""It shares the cores with what it measures, so figures with another one are not to be compared."""
SHARED = ("numpy", "onnxruntime", "onnxruntime-gpu", "pillow")


def main() -> None:
    """Run and report."""
    options = _options()
    work = options.work.absolute()
    try:
        package = Package.load((options.model or shipped_model()).absolute())
    except PackageError as error:
        raise SystemExit(str(error)) from error
    images = labelled_images(options.images, options.count, options.seed)
    how: dict[str, Any] = {name: getattr(options, name) for name in ("seed", "seconds", "count", "threads")}
    manifest = package.manifest
    check_labels(images, manifest.class_names)
    model = {"name": manifest.name, "version": manifest.version, "sha256": package.sha256}
    record = Record(options.output, {"model": model, "machine": machine(), "code": code(), "client": CLIENT, **how})
    full, single = (_workload(package, size, options.threads, work) for size in (manifest.spec.tree.leaves, 1))
    if record["yardstick"] is None:
        record["yardstick"] = asdict(measured(full, single, [image for _, image in images]))
    yardstick = Yardstick(**record["yardstick"])
    print(f"the full ensemble takes {yardstick.full_ms['1']:.1f} ms for one image and does {yardstick.capacity:.0f}/s")
    bench = Bench(
        record=record,
        yardstick=yardstick,
        images=images,
        rhos=options.rhos,
        seconds=options.seconds,
        seed=options.seed,
        logs=work / "logs",
    )
    pythons = {name: _interpreter(SERVERS[name], record, options.work) for name in options.servers}
    # Repeat by repeat, since a machine's pace changes within minutes: what one server meets, the others meet as well.
    failures = [
        failure
        for repeat in range(options.repeats)
        for name, python in pythons.items()
        if (failure := _compare(SERVERS[name], python, bench, full, single, options.deadlines, repeat))
    ]
    print_tables(record)
    plot(record, options.output.with_suffix(".svg"))
    print(f"\nwritten to {options.output}")
    if failures:
        sys.exit("\n".join(failures))


def _interpreter(server: Server, record: Record, work: Path) -> Path:
    """Of a server's environment, whose versions are put on record."""
    python = environment_of(server, work)
    names = SHARED if server.distribution is None else (server.distribution, *SHARED)
    found = versions(python, *names)
    record["versions"] = (record["versions"] or {}) | {server.name: found}
    if (computing := _computing(found)) != (ours := _computing(versions(Path(sys.executable), *SHARED))):
        raise SystemExit(f"{server.name} computes with {computing}, this environment with {ours}: install the same")
    return python


def _computing(found: Mapping[str, str]) -> dict[str, str]:
    """ONNX Runtime has a name of its own where it can also use a GPU, which nobody does here."""
    return {name.removesuffix("-gpu"): found[name] for name in SHARED if name in found}


def _compare(
    server: Server,
    python: Path,
    bench: Bench,
    full: Workload,
    single: Workload,
    deadlines: Sequence[str],
    repeat: int,
) -> str | None:
    """Everything of one server, once; what failed, if anything did. The others are measured all the same."""
    try:
        bench.overhead(server, python, single, repeat)
        for deadline in deadlines:
            for workload in (full,) if server is OURS else (full, single):
                bench.goodput(server, python, workload, deadline, repeat)
    except ServerError as error:
        print(error, file=sys.stderr, flush=True)
        return str(error)
    return None


def _workload(package: Package, size: int, cores: int, work: Path) -> Workload:
    graph = work / "graphs" / f"{package.sha256[:12]}-{size}.onnx"
    if not graph.is_file():
        write_graph(package, size, graph)
    return Workload(
        package=str(package.root),
        graph=str(graph),
        size=size,
        port=0,
        cores=cores,
        threads=cores,
        deadline_ms=0,
        queue_ms=0,
        max_batch=1,
        batch_wait_ms=0,
    )


def _deadline(text: str) -> str:
    positive_float(text.removesuffix("x"))
    return text


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add_images(parser, 2000)
    add("--model", type=Path, help="model package (the shipped one)")
    add("--servers", nargs="+", choices=SERVERS, default=list(SERVERS), help="those to measure (all)")
    add("--rhos", type=positive_float, nargs="+", default=[0.3, 0.5, 1.0, 2.0, 4.0], help="loads (0.3 0.5 1 2 4)")
    add(
        "--deadlines",
        type=_deadline,
        nargs="+",
        default=["3x"],
        help="ms, or 3x: times the full ensemble's latency (3x)",
    )
    add("--seconds", type=positive_float, default=6.0, help="of load in a cell (6)")
    add("--repeats", type=positive_int, default=1, help="of every cell, each with arrivals of its own (1)")
    cores = processors()
    add("--threads", type=positive_int, default=cores, help=f"that compute, for all servers (one per core: {cores})")
    add("--work", type=Path, default=Path("build/peers"), help="for environments, graphs and logs (build/peers)")
    add_output(parser, "peers.json")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
