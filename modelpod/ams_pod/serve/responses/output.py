"""The items of a response as the model writes them, and the events that tell of each piece. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
from ams_common.wire import TokenLogprob
from ams_common.wire.responses import (
    ContentPartAdded,
    ContentPartDone,
    CustomToolCallInputDelta,
    CustomToolCallInputDone,
    CustomToolCallItem,
    FunctionCallArgumentsDelta,
    FunctionCallArgumentsDone,
    FunctionCallItem,
    OutputItem,
    OutputItemAdded,
    OutputItemDone,
    OutputMessage,
    OutputText,
    OutputTextDelta,
    OutputTextDone,
    ReasoningContent,
    ReasoningItem,
    ReasoningSummary,
    ReasoningSummaryPartAdded,
    ReasoningSummaryPartDone,
    ReasoningSummaryTextDelta,
    ReasoningSummaryTextDone,
    ReasoningTextDelta,
    ReasoningTextDone,
)

from ams_pod.serve.responses.toolbox import ToolAddress, Toolbox, custom_input
from ams_pod.serve.responses.translating import sealed
from ams_pod.serve.thinking import CallDelta, Delta

Event = Callable[[int], msgspec.Struct]
"""Made with its number in the stream."""

IN_PROGRESS, COMPLETED, INCOMPLETE = "in_progress", "completed", "incomplete"


class _Part(Protocol):
    """An item that grows. `item` is what it is by now."""

    def begun(self) -> list[Event]: ...
    def grown(self, text: str) -> list[Event]: ...
    def ended(self, status: str) -> list[Event]: ...
    def item(self, status: str) -> OutputItem: ...


@dataclass(slots=True)
class _Message:
    id: str
    index: int
    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    new: Sequence[TokenLogprob] = ()  # of the text that comes next

    def item(self, status: str) -> OutputItem:
        content = [] if status == IN_PROGRESS else [OutputText(text=self.text, logprobs=self.logprobs)]
        return OutputMessage(id=self.id, status=status, content=content)

    def begun(self) -> list[Event]:
        at = self._at()
        return [lambda number: ContentPartAdded(sequence_number=number, part=OutputText(text=""), **at)]

    def grown(self, text: str) -> list[Event]:
        self.text += text
        at, logprobs, self.new = self._at(), list(self.new), ()
        self.logprobs += logprobs
        return [lambda number: OutputTextDelta(sequence_number=number, delta=text, logprobs=logprobs, **at)]

    def ended(self, status: str) -> list[Event]:
        at, text, logprobs = self._at(), self.text, self.logprobs
        part = OutputText(text=text, logprobs=logprobs)
        return [
            lambda number: OutputTextDone(sequence_number=number, text=text, logprobs=logprobs, **at),
            lambda number: ContentPartDone(sequence_number=number, part=part, **at),
        ]

    def _at(self) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.index}


@dataclass(slots=True)
class _Reasoning:
    id: str
    index: int
    summarized: bool
    is_sealed: bool
    text: str = ""

    def item(self, status: str) -> OutputItem:
        if status == IN_PROGRESS:
            return ReasoningItem(id=self.id, status=status, summary=[], content=[])
        return ReasoningItem(
            id=self.id,
            status=status,
            summary=[ReasoningSummary(text=self.text)] if self.summarized else [],
            content=[ReasoningContent(text=self.text)],
            encrypted_content=sealed(self.text) if self.is_sealed else None,
        )

    def begun(self) -> list[Event]:
        at = self._at()
        events: list[Event] = [
            lambda number: ContentPartAdded(sequence_number=number, part=ReasoningContent(text=""), **at)
        ]
        if self.summarized:
            part = ReasoningSummary(text="")
            events.append(lambda number: ReasoningSummaryPartAdded(sequence_number=number, part=part, **at))
        return events

    def grown(self, text: str) -> list[Event]:
        self.text += text
        at = self._at()
        events: list[Event] = [lambda number: ReasoningTextDelta(sequence_number=number, delta=text, **at)]
        if self.summarized:
            events.append(lambda number: ReasoningSummaryTextDelta(sequence_number=number, delta=text, **at))
        return events

    def ended(self, status: str) -> list[Event]:
        at, text = self._at(), self.text
        events: list[Event] = [
            lambda number: ReasoningTextDone(sequence_number=number, text=text, **at),
            lambda number: ContentPartDone(sequence_number=number, part=ReasoningContent(text=text), **at),
        ]
        if self.summarized:
            part = ReasoningSummary(text=text)
            events += [
                lambda number: ReasoningSummaryTextDone(sequence_number=number, text=text, **at),
                lambda number: ReasoningSummaryPartDone(sequence_number=number, part=part, **at),
            ]
        return events

    def _at(self) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.index}


@dataclass(slots=True)
class _FunctionCall:
    id: str
    index: int
    call_id: str
    address: ToolAddress
    text: str = ""

    def item(self, status: str) -> OutputItem:
        return FunctionCallItem(
            id=self.id,
            status=status,
            call_id=self.call_id,
            name=self.address.name,
            arguments=self.text,
            namespace=self.address.namespace,
        )

    def begun(self) -> list[Event]:
        return []

    def grown(self, text: str) -> list[Event]:
        self.text += text
        at = self._at()
        return [lambda number: FunctionCallArgumentsDelta(sequence_number=number, delta=text, **at)]

    def ended(self, status: str) -> list[Event]:
        at, text, name = self._at(), self.text, self.address.name
        return [lambda number: FunctionCallArgumentsDone(sequence_number=number, name=name, arguments=text, **at)]

    def _at(self) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.index}


@dataclass(slots=True)
class _CustomCall:
    """Its text is known when its arguments are complete."""

    id: str
    index: int
    call_id: str
    address: ToolAddress
    text: str = ""

    def item(self, status: str) -> OutputItem:
        return CustomToolCallItem(
            id=self.id,
            status=status,
            call_id=self.call_id,
            name=self.address.name,
            input="" if status == IN_PROGRESS else custom_input(self.text),
            namespace=self.address.namespace,
        )

    def begun(self) -> list[Event]:
        return []

    def grown(self, text: str) -> list[Event]:
        self.text += text
        return []

    def ended(self, status: str) -> list[Event]:
        at: dict[str, Any] = {"item_id": self.id, "output_index": self.index}
        text = custom_input(self.text)
        return [
            lambda number: CustomToolCallInputDelta(sequence_number=number, delta=text, **at),
            lambda number: CustomToolCallInputDone(sequence_number=number, input=text, **at),
        ]


class Output:
    """Takes what the model writes; each method gives the events that tell of it. `new_id` makes ids of a prefix."""

    def __init__(self, toolbox: Toolbox, new_id: Callable[[str], str], *, summarized: bool, sealed: bool) -> None:
        self.items: list[OutputItem] = []
        self._toolbox, self._new_id = toolbox, new_id
        self._summarized, self._sealed = summarized, sealed
        self._blank = ""  # white space that belongs to a text, if there is one
        self._logprobs: list[TokenLogprob] = []
        self._open: _Part | None = None
        self._kind: object = None  # what the open item is: which call, or what else

    def take(self, delta: Delta, logprobs: Sequence[TokenLogprob] = ()) -> list[Event]:
        """What is new: thoughts come before the text, and the text before the calls. `logprobs` are the text's."""
        events: list[Event] = []
        if delta.thinking:
            events += self._grow("reasoning", delta.thinking, self._reasoning)
        if delta.content and self._kind != "message" and not delta.content.strip():
            self._blank += delta.content
            self._logprobs += logprobs
        elif delta.content:
            text, self._blank = self._blank + delta.content, ""
            self._logprobs += logprobs
            events += self._grow("message", text, self._message)
        for call in delta.calls:
            self._blank = ""
            events += self._call(call)
        return events

    def end(self, status: str) -> list[Event]:
        """Nothing more comes."""
        return self._close(status)

    def so_far(self) -> list[OutputItem]:
        """All items, one that hasn't ended included."""
        return [*self.items, *([] if self._open is None else [self._open.item(INCOMPLETE)])]

    def _call(self, call: CallDelta) -> list[Event]:
        kind = ("call", call.index)
        events = [] if self._kind == kind else self._begin(kind, self._called(call))
        if call.arguments and self._open is not None:
            events += self._open.grown(call.arguments)
        return events

    def _grow(self, kind: str, text: str, make: Callable[[], _Part]) -> list[Event]:
        events = [] if self._kind == kind else self._begin(kind, make())
        assert self._open is not None
        if isinstance(self._open, _Message):
            self._open.new, self._logprobs = self._logprobs, []
        return events + self._open.grown(text)

    def _begin(self, kind: object, part: _Part) -> list[Event]:
        events = self._close(COMPLETED)
        self._open, self._kind = part, kind
        item, index = part.item(IN_PROGRESS), len(self.items)
        return [
            *events,
            lambda number: OutputItemAdded(sequence_number=number, output_index=index, item=item),
            *part.begun(),
        ]

    def _close(self, status: str) -> list[Event]:
        part, self._open, self._kind = self._open, None, None
        if part is None:
            return []
        item, index = part.item(status), len(self.items)
        self.items.append(item)
        done: Event = lambda number: OutputItemDone(sequence_number=number, output_index=index, item=item)  # noqa: E731
        return [*part.ended(status), done]

    # The open item is closed after these were made: they are the next.

    def _next_index(self) -> int:
        return len(self.items) + (self._open is not None)

    def _message(self) -> _Part:
        return _Message(self._new_id("msg"), self._next_index())

    def _reasoning(self) -> _Part:
        return _Reasoning(self._new_id("rs"), self._next_index(), self._summarized, self._sealed)

    def _called(self, call: CallDelta) -> _Part:
        address = self._toolbox.address(call.name)
        make, prefix = (_CustomCall, "ctc") if address.custom else (_FunctionCall, "fc")
        return make(self._new_id(prefix), self._next_index(), call.id or self._new_id("call"), address)
