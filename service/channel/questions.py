"""Questions to the engine process that wait for their answers."""

from __future__ import annotations

import asyncio

from service.client import Exposition
from service.errors import EngineBusyError, ServiceError
from service.state import EngineState

__all__ = ["ANSWER_SECONDS", "Answer", "Questions"]

Answer = EngineState | Exposition

ANSWER_SECONDS = 5.0
"""How long an answer is waited for: the engine process takes no questions from who has much to read."""


class Questions:
    """By number, of one event loop."""

    def __init__(self) -> None:
        self._futures: dict[int, asyncio.Future[Answer]] = {}

    async def wait(self, number: int) -> Answer:
        """The answer to a question that has been sent.

        Raises:
            EngineBusyError: it does not come.
            ServiceError: there will be none.
        """
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._futures[number] = future
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await future
        except TimeoutError as error:
            raise EngineBusyError from error
        finally:
            del self._futures[number]

    def answer(self, number: int, answer: Answer | ServiceError) -> None:
        """An answer has come, or it is known why there is none. Harmless if nobody waits for it any more."""
        future = self._futures.get(number)
        if future is None or future.done():
            return
        if isinstance(answer, ServiceError):
            future.set_exception(answer)
        else:
            future.set_result(answer)

    def give_up(self, error: ServiceError) -> None:
        """There will be no more answers."""
        for number in list(self._futures):
            self.answer(number, error)
