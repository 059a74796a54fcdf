"""Asks a Hugging Face hub for public metadata: no token, small answers, in bounded time."""

import asyncio
from typing import Annotated, Any
from urllib.parse import quote

import aiohttp
import msgspec
from ams_common.config_bounds import absurd_size
from ams_common.hub_answers import gated, hub_answered, hub_unreachable, other_commit
from ams_common.hub_files import INDEX, RemoteFile, UnusableFiles, choose_files, described, weights_bytes
from ams_common.memory_offers import ModelSize, size_of
from ams_common.outside import read_json
from ams_common.progress import Failure
from ams_common.reasons import Reason
from ams_common.source import HubSource

from ams_operator.answers import read_bounded
from ams_operator.decide.preflight.report import HubReport, Question, unreachable

_LARGEST_BYTES = 16 << 20  # of an answer; listings have some hundred KB, the index of a very large model 10 MB
_BLOCKING = {Reason.MODEL_NOT_FOUND, Reason.REVISION_NOT_FOUND, Reason.GATED_MODEL, Reason.BAD_TOKEN}


class _Sibling(msgspec.Struct, frozen=True):
    rfilename: str
    size: Annotated[int, msgspec.Meta(ge=0, le=1 << 60)] | None = None


class _Tensors(msgspec.Struct, frozen=True):
    total: int | None = None


class _Info(msgspec.Struct, frozen=True):
    """`/api/models/{repository}/revision/{revision}`; mirrors leave fields out."""

    sha: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{40}\Z")] | None = None
    gated: bool | str = False
    siblings: list[_Sibling] = []
    safetensors: _Tensors | None = None


class _NotOk(Exception):
    """An answer whose status isn't 200."""

    def __init__(self, status: int, code: str | None, message: str | None) -> None:
        super().__init__(status)
        self.status = status
        self.code = code
        self.message = message


class HubClient:
    """One hub. `ask` never raises."""

    def __init__(self, session: aiohttp.ClientSession, endpoint: str, seconds: float) -> None:
        self._session = session
        self._endpoint = endpoint.rstrip("/")
        self._seconds = seconds

    async def ask(self, question: Question) -> HubReport:
        """What is hidden from us may be open to the pods, if they have a token."""
        try:
            async with asyncio.timeout(self._seconds):
                return await self._ask(question)
        except TimeoutError:
            return self._unreachable(f"no answer within {self._seconds:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return self._unreachable(str(error) or type(error).__name__)

    async def _ask(self, question: Question) -> HubReport:
        source, repository = question.source, question.source.repository
        try:
            path = f"/api/models/{repository}/revision/{quote(source.revision or 'main', safe='')}"
            info = read_json(await self._get(path, blobs="true"), _Info, max_bytes=_LARGEST_BYTES)
        except _NotOk as answer:
            return self._refusal(answer, question)
        if info.sha is not None and (failure := other_commit(repository, source.revision, info.sha)) is not None:
            return HubReport(failure, revision=info.sha)
        if info.gated and not question.token:
            return HubReport(gated(repository, hub=self._endpoint, token=False), revision=info.sha)
        listing = [RemoteFile(sibling.rfilename, sibling.size) for sibling in info.siblings]
        try:
            files = choose_files(
                listing,
                where=described(source, info.sha or source.revision or "main"),
                gguf=source.file,
                index=await self._file(repository, info, INDEX) if source.file is None else None,
                allow_pickle=question.allow_pickle,
                signature=question.signature,
            )
        except UnusableFiles as error:
            return HubReport(error.failure, revision=info.sha)
        config = await self._config(repository, info)
        if (sentence := absurd_size(config)) is not None:
            return HubReport(Failure(Reason.INVALID_SOURCE, f"{repository}: {sentence}"), revision=info.sha)
        names = config.get("architectures")
        return HubReport(
            note=f"{repository} is gated; the pod's token is tried at the download." if info.gated else "",
            revision=info.sha,
            architectures=tuple(str(name) for name in names) if isinstance(names, list) else (),
            weights_bytes=(count := weights_bytes(files)),
            size=_size(source, config, count, info),
        )

    async def _config(self, repository: str, info: _Info) -> dict[str, Any]:
        text = await self._file(repository, info, "config.json")
        config = read_json(text) if text is not None else None
        return config if isinstance(config, dict) else {}

    async def _file(self, repository: str, info: _Info, name: str) -> bytes | None:
        """A small file of the listing; None if it isn't listed, or hidden from us."""
        if not any(sibling.rfilename == name for sibling in info.siblings):
            return None
        try:
            return await self._get(f"/{repository}/resolve/{info.sha or 'main'}/{name}")
        except _NotOk:
            return None

    async def _get(self, path: str, **query: str) -> bytes:
        async with self._session.get(f"{self._endpoint}{path}", params=query) as response:
            if response.status != 200:
                headers = response.headers
                raise _NotOk(response.status, headers.get("X-Error-Code"), headers.get("X-Error-Message"))
            return await read_bounded(response, _LARGEST_BYTES)

    def _refusal(self, answer: _NotOk, question: Question) -> HubReport:
        source = question.source
        if question.token and answer.status in (401, 403, 404) and answer.code != "RevisionNotFound":
            return HubReport(
                note=f"{source.repository} is hidden without a token; the pod's is tried when it downloads."
            )
        failure = hub_answered(
            answer.status,
            answer.code,
            answer.message,
            repository=source.repository,
            revision=source.revision,
            hub=self._endpoint,
            token=False,
        )
        return HubReport(failure) if failure.reason in _BLOCKING else unreachable(failure.message)

    def _unreachable(self, cause: str) -> HubReport:
        return HubReport(hub_unreachable(self._endpoint, cause))


def _size(source: HubSource, config: dict[str, Any], weights: int | None, info: _Info) -> ModelSize | None:
    """None where the files don't show it, as a GGUF file, whose weights become larger when they are loaded."""
    counted = info.safetensors.total if info.safetensors is not None else None
    if source.file is not None or (weights is None and counted is None):
        return None
    return size_of(config, weights or 0, counted)
