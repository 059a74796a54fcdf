"""What changes the logits of requests before a token is chosen, from step to step, of all rows at once.

Repetition, presence and frequency penalties and biases, as OpenAI and transformers define them, and tokens that are
banned. The repetition penalty is of prompt and answer, the others of the answer alone.
"""

from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor

from ams_pod.engines.builtin.model.transfer import on_device
from ams_pod.engines.port import Sampling


class Adjustments:
    """Those of one request, and the tokens that they depend on."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int]) -> None:
        self.repetition = sampling.repetition_penalty
        self.presence, self.frequency = sampling.presence_penalty, sampling.frequency_penalty
        self.seen = _Counts(prompt) if self.repetition != 1.0 else None
        self.made = _Counts(()) if self.presence or self.frequency else None
        self.biased = _tokens(token for token, _ in sampling.logit_bias)
        self.biases = torch.tensor([bias for _, bias in sampling.logit_bias], dtype=torch.float32)
        self.allowed = None if sampling.allowed_tokens is None else _tokens(sampling.allowed_tokens)
        self._banned = _tokens(sampling.banned_tokens)
        self._ends = sampling.stop_tokens
        self._least = sampling.min_new_tokens
        self._count = 0

    @classmethod
    def of(cls, sampling: Sampling, prompt: Sequence[int]) -> "Adjustments | None":
        """None where nothing changes."""
        changes = (
            sampling.repetition_penalty != 1.0
            or sampling.presence_penalty
            or sampling.frequency_penalty
            or sampling.logit_bias
            or sampling.min_new_tokens
            or sampling.banned_tokens
            or sampling.allowed_tokens is not None
        )
        return cls(sampling, prompt) if changes else None

    def accept(self, token: int) -> None:
        self._count += 1
        for counts in (self.seen, self.made):
            if counts is not None:
                counts.add(token)

    def banned(self, ends: Collection[int]) -> Tensor:
        """Tokens that mustn't be chosen now; `ends` are the model's own that end an answer."""
        if self._count >= self._least:
            return self._banned
        return torch.cat((self._banned, _tokens((*ends, *self._ends))))


def adjust(values: Tensor, vocabulary: int, rows: Sequence[Adjustments | None], ends: Collection[int]) -> None:
    """Change logits [rows, vocabulary and beyond] in place. Tokens that the model doesn't have change nothing."""
    adjusted = [(index, row) for index, row in enumerate(rows) if row is not None]
    if not adjusted:
        return
    flat, width, device = values.view(-1), values.shape[1], values.device
    repeated: list[tuple[Tensor, Tensor]] = []
    added: list[tuple[Tensor, Tensor]] = []
    banned: list[Tensor] = []
    for index, row in adjusted:
        start = index * width
        if row.seen is not None:
            tokens, _ = row.seen.of(vocabulary)
            repeated.append((tokens + start, torch.full((len(tokens),), row.repetition)))
        if row.made is not None:
            tokens, counts = row.made.of(vocabulary)
            added.append((tokens + start, -(row.presence + row.frequency * counts)))
        if len(row.biased):
            known = row.biased < vocabulary
            added.append((row.biased[known] + start, row.biases[known]))
        if len(bans := row.banned(ends)):
            banned.append(bans[bans < vocabulary] + start)
    if repeated:
        where, penalty = (on_device(torch.cat(parts), device) for parts in zip(*repeated, strict=True))
        logits = flat[where]
        flat[where] = torch.where(logits < 0, logits * penalty, logits / penalty)
    if added:
        where, change = (on_device(torch.cat(parts), device) for parts in zip(*added, strict=True))
        flat.index_add_(0, where, change)
    for index, row in adjusted:
        if row.allowed is not None:
            tokens = on_device(row.allowed[row.allowed < vocabulary], device)
            kept = values[index, tokens]
            values[index].fill_(float("-inf"))
            values[index, tokens] = kept
    if banned:
        flat.index_fill_(0, on_device(torch.cat(banned), device), float("-inf"))


def _tokens(ids: Iterable[int]) -> Tensor:
    return torch.tensor([token for token in ids if token >= 0], dtype=torch.long)


class _Counts:
    """How often tokens came, as tensors that grow, so that a step builds no list of them all."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._places: dict[int, int] = {}
        self._tokens = torch.zeros(64, dtype=torch.long)
        self._counts = torch.zeros(64)
        self._highest = -1
        if tokens:
            unique, counts = torch.tensor(tokens, dtype=torch.long).unique(return_counts=True)
            self._places = {token: place for place, token in enumerate(unique.tolist())}
            self._tokens = torch.cat((unique, self._tokens))
            self._counts = torch.cat((counts.float(), self._counts))
            self._highest = int(unique[-1])

    def add(self, token: int) -> None:
        place = self._places.setdefault(token, len(self._places))
        if place == len(self._tokens):
            self._tokens = torch.cat((self._tokens, torch.zeros_like(self._tokens)))
            self._counts = torch.cat((self._counts, torch.zeros_like(self._counts)))
        self._tokens[place] = token
        self._counts[place] += 1
        self._highest = max(self._highest, token)

    def of(self, vocabulary: int) -> tuple[Tensor, Tensor]:
        """Tokens of the vocabulary, and how often they came."""
        count = len(self._places)
        tokens, counts = self._tokens[:count], self._counts[:count]
        if self._highest < vocabulary:
            return tokens, counts
        known = tokens < vocabulary
        return tokens[known], counts[known]
