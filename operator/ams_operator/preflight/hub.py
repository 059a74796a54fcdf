"""Asks a Hugging Face hub for public metadata: no token, small answers, never longer than told."""

import asyncio
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec
from ams_common.fit import shape_of, stored_bytes_per_parameter
from ams_common.reasons import Reason
from ams_common.source import HubSource

from ams_operator.preflight.answer import Answer, unreachable

_LARGEST = 16 << 20  # bytes of an answer; the listing of a large model has some hundred KB
_OTHER_LAYOUTS = ("consolidated", "adapter_model")


class _Sibling(msgspec.Struct, frozen=True):
    rfilename: str
    size: int | None = None


class _Tensors(msgspec.Struct, frozen=True):
    total: int | None = None


class _Info(msgspec.Struct, frozen=True):
    """`/api/models/{repository}/revision/{revision}`; mirrors leave fields out."""

    sha: str | None = None
    gated: bool | str = False
    private: bool = False
    siblings: list[_Sibling] = []
    safetensors: _Tensors | None = None


class _Refused(Exception):
    def __init__(self, status: int, code: str | None) -> None:
        super().__init__(status)
        self.status = status
        self.code = code


class Hub:
    """One hub. `ask` never raises."""

    def __init__(self, session: aiohttp.ClientSession, endpoint: str, seconds: float) -> None:
        self._session = session
        self._endpoint = endpoint.rstrip("/")
        self._seconds = seconds

    async def ask(self, source: HubSource, *, token: bool) -> Answer:
        """`token`: the pods have one, which isn't known here; what is hidden from us may be open to them."""
        try:
            async with asyncio.timeout(self._seconds):
                return await self._ask(source, token)
        except TimeoutError:
            return unreachable(f"The hub at {self._endpoint} didn't answer within {self._seconds:g} s.")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return unreachable(f"The hub at {self._endpoint} can't be asked: {str(error) or type(error).__name__}.")

    async def _ask(self, source: HubSource, token: bool) -> Answer:
        repository, revision = source.repository, source.revision or "main"
        try:
            path = f"/api/models/{repository}/revision/{quote(revision, safe='')}"
            info = msgspec.json.decode(await self._get(path, blobs="true"), type=_Info)
        except _Refused as refused:
            return self._refusal(refused, source, token)
        if info.gated and not token:
            return Answer(
                Reason.GATED_MODEL,
                f"{repository} is gated: accept its terms at {self._endpoint}/{repository} and give a token"
                " (spec.model.tokenSecretRef).",
                info.sha,
            )
        config = await self._config(repository, info)
        names = config.get("architectures")
        return Answer(
            message=f"{repository} is gated; the pod's token is tried when it downloads." if info.gated else "",
            revision=info.sha,
            architectures=tuple(str(name) for name in names) if isinstance(names, list) else (),
            weights_bytes=weights_bytes(info.siblings, source.file),
            parameters=info.safetensors.total if info.safetensors is not None else _parameters(info, config, source),
            context_tokens=(shape := shape_of(config)).context_tokens or None,
            shape=shape if shape.layers else None,
        )

    async def _config(self, repository: str, info: _Info) -> dict[str, Any]:
        if not any(sibling.rfilename == "config.json" for sibling in info.siblings):
            return {}
        try:
            body = await self._get(f"/{repository}/resolve/{info.sha or 'main'}/config.json")
        except _Refused:
            return {}  # gated: the pod reads it
        found = msgspec.json.decode(body)
        return found if isinstance(found, dict) else {}

    async def _get(self, path: str, **query: str) -> bytes:
        async with self._session.get(f"{self._endpoint}{path}", params=query) as response:
            if response.status == 429 or response.status >= 500:
                raise aiohttp.ClientError(f"it answered {response.status}")
            if response.status != 200:
                raise _Refused(response.status, response.headers.get("X-Error-Code"))
            return await response.content.read(_LARGEST) if response.content_length is None else await response.read()

    def _refusal(self, refused: _Refused, source: HubSource, token: bool) -> Answer:
        page = f"{self._endpoint}/{source.repository}"
        if refused.code == "RevisionNotFound":
            return Answer(
                Reason.REVISION_NOT_FOUND,
                f"{source.repository} has no revision {source.revision or 'main'!r}; see {page}/refs for what it has.",
            )
        if refused.status in (401, 403, 404) and token:
            return Answer(message=f"The hub hides {source.repository}; the pod's token is tried when it downloads.")
        if refused.status in (401, 404):
            return Answer(
                Reason.MODEL_NOT_FOUND,
                f"The hub has no model {source.repository}, or hides it: check the name; a private model needs a token"
                " (spec.model.tokenSecretRef).",
            )
        if refused.status == 403:
            return Answer(
                Reason.GATED_MODEL,
                f"The hub refuses access to {source.repository} (403); give a token (spec.model.tokenSecretRef).",
            )
        return unreachable(f"The hub at {self._endpoint} refused to tell ({refused.status}).")


def weights_bytes(siblings: Iterable[_Sibling], file: str | None) -> int | None:
    """Size of the files that a pod would fetch as weights; None where the listing has no sizes."""
    sizes = {sibling.rfilename: sibling.size for sibling in siblings}
    if file is not None:
        return sizes.get(file)
    if "model.safetensors" in sizes and "model.safetensors.index.json" not in sizes:
        return sizes["model.safetensors"]
    top = [name for name in sizes if name.endswith(".safetensors") and not name.startswith(_OTHER_LAYOUTS)]
    own = [name for name in top if "/" not in name] or top
    if not own:
        return None
    known = [size for name in own if (size := sizes[name]) is not None]
    return sum(known) if len(known) == len(own) else None


def _parameters(info: _Info, config: dict[str, Any], source: HubSource) -> int | None:
    """From the weights' size and type, where the hub doesn't count."""
    size = weights_bytes(info.siblings, source.file)
    if size is None or source.file is not None:
        return None
    return size // stored_bytes_per_parameter(config)
