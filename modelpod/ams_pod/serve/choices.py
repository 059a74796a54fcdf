"""The answers to one request: one, or several to the same prompt or to a list of them."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import msgspec
from ams_common.errors import ApiError

from ams_pod.serve.generation import Generation
from ams_pod.serve.thinking import Delta


class ChoicesFormat(ABC):
    """How an API writes several answers. `index` is the number of an answer.

    `generations` are all that were made, of which `answers` are told.
    """

    @abstractmethod
    def whole_of(
        self, answers: Sequence[tuple[Delta, Generation]], generations: Sequence[Generation]
    ) -> msgspec.Struct | str: ...

    @abstractmethod
    def begin_all(self, generations: Sequence[Generation]) -> bytes: ...

    @abstractmethod
    def piece_of(self, index: int, delta: Delta, generation: Generation) -> bytes: ...

    @abstractmethod
    def end_of(self, index: int, generation: Generation) -> bytes: ...

    @abstractmethod
    def end_all(self, generations: Sequence[Generation]) -> bytes: ...


class Choices:
    """An async context around the generations of one request: leaving it cancels what still runs."""

    def __init__(self, generations: Sequence[Generation]) -> None:
        self.generations = generations
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        try:
            for generation in self.generations:
                await self._stack.enter_async_context(generation)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    async def whole(self) -> list[tuple[Delta, Generation]]:
        """All complete answers."""
        return [(await generation.whole(), generation) for generation in self.generations]

    async def pieces(self) -> AsyncGenerator[tuple[int, Delta | None], None]:
        """What is new of each answer, None at its end. ApiError if the model failed on one."""
        if len(self.generations) == 1:
            while (delta := await self.generations[0].next()) is not None:
                yield 0, delta
            yield 0, None
            return
        news: asyncio.Queue[tuple[int, Delta | BaseException | None]] = asyncio.Queue(len(self.generations))

        async def follow(index: int, generation: Generation) -> None:
            try:
                while (delta := await generation.next()) is not None:
                    await news.put((index, delta))
                await news.put((index, None))
            except ApiError as error:
                await news.put((index, error))

        tasks = [asyncio.ensure_future(follow(index, each)) for index, each in enumerate(self.generations)]
        left = len(tasks)
        try:
            while left:
                index, new = await news.get()
                if isinstance(new, BaseException):
                    raise new
                left -= new is None
                yield index, new
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def after(count: int, call: Callable[[], None]) -> Callable[[], None]:
    """What is called so often before `call` is."""
    left = count

    def one() -> None:
        nonlocal left
        left -= 1
        if not left:
            call()

    return one


def likeliest(answers: Sequence[tuple[Delta, Generation]], of: int, kept: int) -> list[tuple[Delta, Generation]]:
    """Of each `of` answers the likeliest ones for their length, which comes first."""
    return [
        each
        for start in range(0, len(answers), of)
        for each in sorted(answers[start : start + of], key=lambda answer: -answer[1].mean_logprob)[:kept]
    ]
