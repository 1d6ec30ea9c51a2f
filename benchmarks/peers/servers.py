"""The servers that are compared: their environments, and one of them running.

Each peer has a virtual environment of its own, made from its pinned requirements, since their versions may exclude each
other's. Ours runs in the environment of the benchmark.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from benchmarks.load.dialects import Ask, Dialect, Predict
from benchmarks.peers.workload import Workload

__all__ = ["OURS", "SERVERS", "Server", "ServerError", "environment_of", "running", "versions"]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
START_SECONDS = 180.0
"""A server that does not answer within this time has failed."""
END_SECONDS = 20.0
"""A server that has not ended this long after SIGTERM is killed."""
YIELD = ("nice", "-n", "5")
"""Client and server share the cores: the client goes first, in closed loops, and in open ones where it may not be
`punctual`."""

PRIVATE = {
    "BENTOML_DO_NOT_TRACK": "True",
    "ORT_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
}
"""None of them is to report to its maker, or to leave a token in the user's home."""


class ServerError(Exception):
    """A server does not start, or does not answer any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerDialect(Predict):
    """Peers are asked and answer as our service, but are told no deadline: they know none."""

    def ask(self, image: bytes, deadline: float) -> Ask:
        """See `Dialect`."""
        return Predict.ask(self, image, float("inf"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One of the servers that are compared."""

    name: str
    arguments: tuple[str, ...]
    """Of the interpreter; a workload's fields in braces stand for their values."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Of the environment; the same."""
    health: str
    """Path that answers 200 once predictions are answered."""
    distribution: str | None = None
    """The peer's, whose version is reported; None for ours."""
    dialect: Dialect = PeerDialect()
    alone: Dialect = PeerDialect()
    """How a request is made that the first network answers."""

    @property
    def requirements(self) -> Path:
        """What a peer's environment is made from."""
        return HERE / f"requirements-{self.name}.txt"


def _module(name: str) -> tuple[str, ...]:
    return ("-m", f"benchmarks.peers.{name}_server")


OURS = Server(
    name="hne-serve",
    arguments=(
        *("-m", "service.cli", "--host", "127.0.0.1", "--port", "{port}"),
        *("--model", "{package}", "--runner", "cpu", "--threads", "{cores}"),
    ),
    health="/readyz",
    dialect=Predict(options="top_k=1"),
    alone=Predict(options="top_k=1&max_ensemble_size=1"),
)
BENTOML_SERVE = ("-m", "bentoml", "serve", "benchmarks.peers.bentoml_server:Predict")
SERVERS = {
    server.name: server
    for server in (
        OURS,
        Server(name="fastapi", distribution="fastapi", arguments=_module("fastapi"), health="/openapi.json"),
        Server(name="litserve", distribution="litserve", arguments=_module("litserve"), health="/health"),
        Server(
            name="bentoml",
            distribution="bentoml",
            arguments=(*BENTOML_SERVE, "--host", "127.0.0.1", "--port", "{port}"),
            health="/readyz",
        ),
        Server(
            name="ray",
            distribution="ray",
            arguments=_module("ray"),
            variables={
                "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # makes it keep to the loopback interface
                "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
                "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": "{port}",
                "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": "65535",  # it takes the lowest
                "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
            },
            health="/-/healthz",
        ),
    )
}


def environment_of(server: Server, folder: Path) -> Path:
    """The interpreter for a server. A peer's environment is made if it is not there or its requirements changed."""
    if server.distribution is None:
        return Path(sys.executable)
    place = folder.absolute() / server.name
    python = place / "bin" / "python"
    files = [server.requirements, HERE / "requirements-common.txt"]
    wanted = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    stamp = place / "requirements.sha256"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
        print(f"installing {server.name} into {place}", flush=True)
        shutil.rmtree(place, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        pip: list[str | Path] = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, "--requirement", server.requirements], check=True)
        stamp.write_text(wanted, encoding="utf-8")
    return python


def versions(python: Path, *names: str) -> dict[str, str]:
    """Versions of those of the distributions that are installed in an environment."""
    script = (
        "import sys, json, importlib.metadata as m; here = {d.name.lower(): d.version for d in m.distributions()};"
        "print(json.dumps({n: here[n] for n in sys.argv[1:] if n in here}))"
    )
    done = subprocess.run([python, "-c", script, *names], check=True, stdout=subprocess.PIPE)
    found: dict[str, str] = json.loads(done.stdout)
    return found


@contextmanager
def running(server: Server, python: Path, workload: Workload, log: Path) -> Iterator[str]:
    """Start a server, hand out its address once it is healthy, and end it with all that it started.

    Raises:
        ServerError: it ends by itself or is not healthy in time; names its log.
    """
    workload = replace(workload, port=_free_port())
    values = asdict(workload)
    command = [*YIELD, str(python), *(argument.format_map(values) for argument in server.arguments)]
    variables = os.environ | PRIVATE | {"PYTHONPATH": str(ROOT)} | workload.environment()
    variables |= {name: value.format_map(values) for name, value in server.variables.items()}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=variables, cwd=log.parent, stdout=output, stderr=output, start_new_session=True
        )
    try:
        if not _healthy(process, f"http://127.0.0.1:{workload.port}{server.health}"):
            how = "is not healthy" if process.poll() is None else f"ended with {process.returncode}"
            raise ServerError(f"{server.name} {how}: see {log}")
        yield f"http://127.0.0.1:{workload.port}"
    finally:
        _end(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _healthy(process: subprocess.Popen[bytes], url: str) -> bool:
    give_up = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < give_up:
        with suppress(OSError, http.client.HTTPException), urllib.request.urlopen(url, timeout=5):
            return True  # other statuses than 2xx are OSErrors
        time.sleep(0.1)
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
    # Some leave processes behind; all are in the session that was started for them.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
