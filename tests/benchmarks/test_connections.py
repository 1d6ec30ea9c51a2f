"""The load generator's connections against servers that behave, and that do not."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing

import pytest

from benchmarks.load.connections import Connections, Reply, Request, on_fast_loop

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nright"
CLOSING = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"
LATE = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate"


class Server:
    """Answers each request with the next of `answers`, piece by piece where it has some, and keeps what it was sent, by
    connection. Without one it waits for `release`, says `late` and hangs up.
    """

    def __init__(self, *answers: bytes | tuple[bytes, ...], late: bytes = b"") -> None:
        self.answers = list(answers)
        self.late = late
        self.connections: list[list[bytes]] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.release = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            self.release.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests: list[bytes] = []
        self.connections.append(requests)
        self.writers.append(writer)
        with closing(writer):
            try:
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    requests.append(head + await reader.readexactly(4))
                    if not self.answers:
                        await self.release.wait()
                        writer.write(self.late)
                        return
                    answer = self.answers.pop(0)
                    for piece in (answer,) if isinstance(answer, bytes) else answer:
                        writer.write(piece)
                        await asyncio.sleep(0.01)
            except asyncio.IncompleteReadError:
                return


def talk(server: Callable[[], Server], conversation: Callable[[Server, Connections, Request], Awaitable[None]]) -> None:
    async def main() -> None:
        serving = server()
        async with serving.running() as url:
            request = Request.post(url, "/predict?top_k=1", {"Content-Type": "image/jpeg"}, b"body")
            with closing(Connections(url, patience=0.5)) as connections:
                await conversation(serving, connections, request)

    on_fast_loop(main())


def test_a_request_arrives_as_it_was_made_and_its_connection_is_used_again() -> None:
    async def conversation(server: Server, connections: Connections, request: Request) -> None:
        replies = [await connections.exchange(request) for _ in range(3)]
        assert [reply[:2] for reply in replies] == [(200, b"right")] * 3
        [requests] = server.connections
        assert len(requests) == 3
        line, *fields = requests[0].removesuffix(b"\r\n\r\nbody").decode().split("\r\n")
        assert line == "POST /predict?top_k=1 HTTP/1.1"
        assert {"Content-Length: 4", "Content-Type: image/jpeg"} < set(fields)

    talk(lambda: Server(OK, OK, OK), conversation)


def test_requests_at_the_same_time_have_connections_of_their_own() -> None:
    async def conversation(server: Server, connections: Connections, request: Request) -> None:
        replies = await asyncio.gather(*(connections.exchange(request) for _ in range(4)))
        assert [reply.status for reply in replies] == [200] * 4
        assert len(server.connections) == 4

    talk(lambda: Server(OK, OK, OK, OK), conversation)


def test_a_connection_that_the_server_closes_is_not_used_again() -> None:
    async def conversation(server: Server, connections: Connections, request: Request) -> None:
        assert (await connections.exchange(request)).status == 503
        assert (await connections.exchange(request)).status == 200
        assert len(server.connections) == 2

    talk(lambda: Server(CLOSING, OK), conversation)


def test_the_pieces_of_a_body_are_heard_as_they_come() -> None:
    heard: list[tuple[bytes, float]] = []

    async def conversation(server: Server, connections: Connections, request: Request) -> None:
        reply: Reply = await connections.exchange(request, lambda piece: heard.append((piece, time.perf_counter())))
        assert reply.body == b"onetwo"
        assert [piece for piece, _ in heard] == [b"one", b"two"]
        assert heard[0][1] < reply.at - 0.005, "the first was here while the server still waited"

    talk(lambda: Server((CHUNKED + b"3\r\none\r\n", b"3\r\ntwo\r\n0\r\n\r\n")), conversation)


@pytest.mark.parametrize(
    ("answers", "error"),
    [((), TimeoutError), ((b"what?\r\n\r\n",), ConnectionError)],
    ids=["none in time", "no HTTP"],
)
def test_what_is_no_answer_is_an_error(answers: tuple[bytes, ...], error: type[OSError]) -> None:
    async def conversation(server: Server, connections: Connections, request: Request) -> None:
        with pytest.raises(error):
            await connections.exchange(request)

    talk(lambda: Server(*answers), conversation)


def test_an_answer_to_a_request_that_was_given_up_is_nobodys() -> None:
    async def conversation(server: Server, connections: Connections, request: Request) -> None:
        with pytest.raises(TimeoutError):
            await connections.exchange(request)
        server.answers.append(OK)
        server.release.set()  # the late one goes out on its old connection
        assert (await connections.exchange(request)).body == b"right"
        assert len(server.connections) == 2

    talk(lambda: Server(late=LATE), conversation)


def test_an_interim_answer_is_not_the_answer() -> None:
    async def conversation(server: Server, connections: Connections, request: Request) -> None:
        assert (await connections.exchange(request))[:2] == (200, b"right")
        assert (await connections.exchange(request))[:2] == (200, b"right")
        assert len(server.connections) == 1

    talk(lambda: Server(INTERIM + OK, OK), conversation)


def test_a_connection_that_the_server_closed_while_it_was_idle_is_not_used_again() -> None:
    async def conversation(server: Server, connections: Connections, request: Request) -> None:
        await connections.exchange(request)
        server.writers[0].close()
        await asyncio.sleep(0.05)
        assert (await connections.exchange(request)).status == 200
        assert len(server.connections) == 2

    talk(lambda: Server(OK, OK), conversation)


def test_an_old_connection_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def conversation(server: Server, connections: Connections, request: Request) -> None:
        for expected in (1, 2):
            await connections.exchange(request)
            assert len(server.connections) == expected

    monkeypatch.setattr("benchmarks.load.connections.KEEP_ALIVE", 0.0)
    talk(lambda: Server(OK, OK), conversation)


def test_a_server_that_hangs_up_is_an_error() -> None:
    async def conversation(server: Server, connections: Connections, request: Request) -> None:
        exchange = asyncio.create_task(connections.exchange(request))
        while not (server.connections and server.connections[0]):
            await asyncio.sleep(0.001)
        server.release.set()
        with pytest.raises(ConnectionError):
            await exchange

    talk(Server, conversation)
