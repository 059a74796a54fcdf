"""The answer cache of a gateway: what may be looked up, what is found, and what is kept of an answer that passes."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ams_common.answer_cache import cache_key

from ams_gateway.answers.kept import KeptAnswer, Recorder
from ams_gateway.answers.store import Store
from ams_gateway.front.body import Body, WholeBody
from ams_gateway.registry.port import Backend, KeepAnswers, Model

_LONGEST = 1 << 20
_PARTS_OF_THE_ROOM = 8  # one answer may take so much of what a model's answers may take
_VERSION = re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch


@dataclass(frozen=True, slots=True)
class Asked:
    """A request whose answer may be kept."""

    model: str
    key: str
    keep: KeepAnswers


class AnswerCache:
    def __init__(self, store: Store) -> None:
        self._store = store

    def ask(self, model: Model, key_id: str, target: str, body: Body) -> Asked | None:
        """The request as it is looked up; None where answers aren't kept, or this one's would not be alike again."""
        if model.answers is None or not isinstance(body, WholeBody):
            return None
        name = model.key or model.name
        key = cache_key(model=name, key_id=key_id, target=target, body=body.data)
        return None if key is None else Asked(name, key, model.answers)

    async def find(self, asked: Asked, backends: Sequence[Backend]) -> KeptAnswer | None:
        """An answer that the pods that are ready now would give; None where that isn't known for sure."""
        versions = {backend.answer_version for backend in backends} - {""}
        if len(versions) != 1:
            return None
        return await self._store.get(asked.model, f"{asked.key}.{versions.pop()}")

    def keep_only(self, models: Iterable[Model]) -> None:
        """Forget answers of other models than these, and of those that keep none."""
        self._store.keep_only({model.key or model.name for model in models if model.answers is not None})

    def recorder(self, asked: Asked) -> Recorder:
        return Recorder(min(_LONGEST, asked.keep.most_bytes // _PARTS_OF_THE_ROOM))

    async def keep(self, asked: Asked, recorder: Recorder, usage: str) -> None:
        """What was recorded, if it is worth it."""
        if (answer := recorder.take(usage)) is not None and _VERSION(recorder.version):
            keep = asked.keep
            await self._store.put(
                asked.model, f"{asked.key}.{recorder.version}", answer, seconds=keep.seconds, most_bytes=keep.most_bytes
            )
