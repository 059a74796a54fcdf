"""Whether a forward pass computes what the model's own does: compared once, at load, on the real weights.

The own forward gets what transformers' processor makes: token ids, and pictures and sound as they are. Ours gets what
it will get of requests: ids, or the embeddings, positions and deep features that come out of the towers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ams_pod.engines.builtin.model.batch import Batch, Chunk, Forward
from ams_pod.engines.builtin.prompts.media_probe import MediaProbe
from ams_pod.engines.builtin.towers.queue import Prompt

# Relative distance of logits that rounding explains, by the model's number format.
_TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 8e-2, torch.float16: 2e-2}
_PROMPTS, _PROMPT_TOKENS = 2, 20
_SHORT_TOKENS = 6
_ENDS = [_SHORT_TOKENS - 2, _SHORT_TOKENS - 1, _PROMPT_TOKENS - 2, _PROMPT_TOKENS - 1]
SHORTEST_CONTEXT = 32  # tokens; the probes of text must fit


@dataclass(frozen=True, slots=True, eq=False)
class LogitsProbe:
    """A prompt whose first `read` ids are read, and the next one decoded.

    `expected` [2, vocabulary] are the own forward's logits behind both. `positions` [3, tokens] are those of all ids;
    `prompt` is what stands in for the ids of a prompt with media.
    """

    ids: Sequence[int]
    read: int
    expected: Tensor
    positions: Tensor | None = None
    prompt: Prompt | None = None

    def chunk(self, slot: int, start: int, end: int) -> Chunk:
        positions = None if self.positions is None else self.positions[:, start:end]
        ids, last = self.ids[start:end], end == self.read
        if self.prompt is None or self.prompt.embeds is None:
            return Chunk(slot, start, ids, last, positions=positions)
        deep = None if self.prompt.deep is None else self.prompt.deep[:, start:end]
        return Chunk(slot, start, ids, last, self.prompt.embeds[start:end], positions, deep)

    @property
    def delta(self) -> int:
        """From the index of the decoded token to its rope position."""
        return 0 if self.positions is None else int(self.positions[0, self.read]) - self.read


def text_probes(model: Any, rows: int = _PROMPTS) -> list[LogitsProbe]:
    """Prompts of token ids spread over the vocabulary: two, or one where only one row fits.

    Where the model tells time, height and width apart, their positions differ. Made before weights are taken away.
    """
    return text_probes_and_short(model, rows)[0]


def text_probes_and_short(model: Any, rows: int = _PROMPTS) -> tuple[list[LogitsProbe], LogitsProbe | None]:
    """The same, and the beginning of the first one for `distance_of_known`; None where positions differ."""
    ids, positions = _probe_ids(model)[:rows], _probe_positions(model)
    logits = _own_logits(model, ids, positions)
    probes = [
        LogitsProbe(prompt, _PROMPT_TOKENS - 1, each[-2:], positions)
        for prompt, each in zip(ids.tolist(), logits, strict=True)
    ]
    return probes, None if positions is not None else short_probe(model, logits[0, :2])


def short_probe(model: Any, known: Tensor) -> LogitsProbe:
    """A prompt of few tokens. `known`, shaped as `short_logits_shape` tells, is what the own forward says of it."""
    return LogitsProbe(_probe_ids(model)[0, :_SHORT_TOKENS].tolist(), _SHORT_TOKENS - 1, known)


def short_logits_shape(model: Any) -> tuple[int, int]:
    """Of the logits [2, vocabulary] that a short probe expects."""
    return 2, int(model.get_output_embeddings().out_features)


def _probe_ids(model: Any) -> Tensor:
    vocabulary = model.get_input_embeddings().num_embeddings
    return torch.randint(vocabulary, (_PROMPTS, _PROMPT_TOKENS), generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def media_probes(model: Any, probe: MediaProbe, prompt: Prompt) -> list[LogitsProbe]:
    """A prompt with media, read to the last token of the last medium, and the text before its first as one of its own.

    `prompt` is what our towers made of it. The own forward runs once: what comes later changes nothing before it.
    """
    inputs = {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        for name, value in probe.inputs.items()
    }
    logits = model(**inputs).logits[0].float()
    ids, start = list(probe.prepared.ids), probe.start
    probes = [LogitsProbe(ids, probe.end, logits[probe.end - 1 : probe.end + 1], prompt.positions, prompt)]
    if start > 2:
        positions = None if prompt.positions is None else prompt.positions[:, :start]
        probes.insert(0, LogitsProbe(ids[:start], start - 1, logits[start - 2 : start], positions))
    return probes


def has_numbers(probes: Sequence[LogitsProbe]) -> bool:
    """Whether the own forward computes numbers at all. One NaN anywhere in the weights that it used and it doesn't."""
    return not any(bool(probe.expected.isnan().any()) for probe in probes)


def distance(forward: Forward, probes: Sequence[LogitsProbe]) -> float:
    """The largest relative distance of a probe's logits, when they are read together, in chunks, then decoded."""
    results = []
    for first in range(0, len(probes), forward.max_rows):
        results += _distances(forward, probes[first : first + forward.max_rows])
    return max(results)


def distance_of_known(forward: Forward, probe: LogitsProbe) -> float:
    """The same of one probe, which is read at once and then decoded: for what was compared in all ways before."""
    read = forward.step(Batch([], [], [], [], [probe.chunk(0, 0, probe.read)]))[0]
    decoded = forward.step(Batch([0], [probe.ids[probe.read]], [probe.read], [probe.delta], []))[0]
    forward.compact([], [])
    return _relative(probe, read, decoded)


def close_enough(value: float, dtype: torch.dtype) -> bool:
    """Whether rounding explains the distance, in a model that doesn't amplify it."""
    return value <= _TOLERANCE.get(dtype, 2e-2)


def as_close(value: float, own: float) -> bool:
    """Whether a forward is about as close as the model's `own`, read in chunks: then the model amplifies rounding."""
    return value <= 2 * own


def clearly_other(value: float, dtype: torch.dtype) -> bool:
    """Whether no rounding explains the distance: what is compared isn't the same computation."""
    return value > min(0.5, 10 * _TOLERANCE.get(dtype, 2e-2))


def _distances(forward: Forward, probes: Sequence[LogitsProbe]) -> list[float]:
    """All but the last probe are read at once, beside the first half of it; then its other half; then all decode."""
    *others, last = probes
    slot = len(others)
    half = last.read // 2
    chunks = [probe.chunk(number, 0, probe.read) for number, probe in enumerate(others)]
    first = forward.step(Batch([], [], [], [], [*chunks, last.chunk(slot, 0, half)]))
    rest = forward.step(Batch([], [], [], [], [last.chunk(slot, half, last.read)]))
    read = [*first[:slot], rest[0]]
    tokens = [probe.ids[probe.read] for probe in probes]
    lengths, deltas = [probe.read for probe in probes], [probe.delta for probe in probes]
    decoded = forward.step(Batch(range(len(probes)), tokens, lengths, deltas, []))
    forward.compact([], [])
    return [_relative(probe, *pair) for probe, *pair in zip(probes, read, decoded, strict=True)]


def _relative(probe: LogitsProbe, *found: Tensor) -> float:
    return float((torch.stack(found).float() - probe.expected).norm() / probe.expected.norm().clamp(min=1e-9))


def _probe_positions(model: Any) -> Tensor | None:
    """Positions [3, tokens] as of a prompt with media; None for a model with one position a token."""
    if "mrope_section" not in (getattr(model.config.get_text_config(), "rope_parameters", None) or {}):
        return None
    generator = torch.Generator().manual_seed(1)
    positions = torch.randint(3, (3, _PROMPT_TOKENS), generator=generator).cumsum(1)
    positions[:, -1] = positions.max() + 1
    return positions.to(model.device)


@torch.inference_mode()
def _own_logits(model: Any, ids: Tensor, positions: Tensor | None) -> Tensor:
    """Logits of the own forward: [prompts, 4, vocabulary] at the ends of the short and the whole prompt, or all."""
    ids = ids.to(model.device)
    if positions is not None:
        return model(input_ids=ids, position_ids=positions[:, None].expand(-1, len(ids), -1)).logits.float()
    logits = model(input_ids=ids, logits_to_keep=torch.tensor(_ENDS, device=ids.device)).logits.float()
    return logits[:, _ENDS] if logits.shape[1] == ids.shape[1] else logits  # some models keep all
