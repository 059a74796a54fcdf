"""What changes the logits of one request before a token is chosen, from step to step."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ams_pod.engines.port import Sampling


class Penalties:
    """Repetition, presence and frequency penalties and biases, as OpenAI and transformers define them.

    The repetition penalty is of prompt and answer, the others of the answer alone.
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int]) -> None:
        self._repetition = sampling.repetition_penalty
        self._presence, self._frequency = sampling.presence_penalty, sampling.frequency_penalty
        self._seen = _Counts(prompt) if self._repetition != 1.0 else None
        self._made = _Counts(()) if self._presence or self._frequency else None
        self._biased = torch.tensor([token for token, _ in sampling.logit_bias], dtype=torch.long)
        self._biases = torch.tensor([bias for _, bias in sampling.logit_bias])

    @classmethod
    def of(cls, sampling: Sampling, prompt: Sequence[int]) -> "Penalties | None":
        """None where nothing changes."""
        changes = (
            sampling.repetition_penalty != 1.0
            or sampling.presence_penalty
            or sampling.frequency_penalty
            or sampling.logit_bias
        )
        return cls(sampling, prompt) if changes else None

    def accept(self, token: int) -> None:
        for counts in (self._seen, self._made):
            if counts is not None:
                counts.add(token)

    def apply(self, logits: Tensor) -> None:
        """Change a row's logits [vocabulary] in place."""
        if self._seen is not None:
            tokens, _ = self._seen.on(logits.device)
            values = logits[tokens]
            logits[tokens] = torch.where(values < 0, values * self._repetition, values / self._repetition)
        if self._made is not None:
            tokens, counts = self._made.on(logits.device)
            logits[tokens] -= self._presence + self._frequency * counts
        if len(self._biased):
            known = self._biased < len(logits)
            logits[self._biased[known].to(logits.device)] += self._biases[known].to(logits.device)


class _Counts:
    """How often tokens came, as tensors that grow, so that a step builds no list of them all."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._places: dict[int, int] = {}
        self._tokens = torch.zeros(64, dtype=torch.long)
        self._counts = torch.zeros(64)
        if tokens:
            unique, counts = torch.tensor(tokens, dtype=torch.long).unique(return_counts=True)
            self._places = {token: place for place, token in enumerate(unique.tolist())}
            self._tokens = torch.cat((unique, self._tokens))
            self._counts = torch.cat((counts.float(), self._counts))

    def add(self, token: int) -> None:
        place = self._places.setdefault(token, len(self._places))
        if place == len(self._tokens):
            self._tokens = torch.cat((self._tokens, torch.zeros_like(self._tokens)))
            self._counts = torch.cat((self._counts, torch.zeros_like(self._counts)))
        self._tokens[place] = token
        self._counts[place] += 1

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Tokens and how often they came."""
        count = len(self._places)
        return self._tokens[:count].to(device), self._counts[:count].to(device)
