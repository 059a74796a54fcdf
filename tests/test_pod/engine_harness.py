"""Drive an engine step by step, without its thread, and compare with what transformers generates."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from ams_pod.engines.builtin.model.decoder import Decoder
from ams_pod.engines.builtin.model.padded import PaddedForward
from ams_pod.engines.builtin.model.stack import find_stack
from ams_pod.engines.builtin.scheduler.core import EngineCore
from ams_pod.engines.port import Prepared, Sampling, Ticket, TokenEvent
from transformers import AutoModelForCausalLM

VOCABULARY = 600


@dataclass
class Outcome:
    tokens: list[int] = field(default_factory=list)
    finish: str | None = None
    error: BaseException | None = None


class Driver:
    """An engine whose events are kept by request."""

    def __init__(self, forward, stop_tokens=frozenset(), embedder=None, fallbacks=None, *, speculate=False):
        self.engine = EngineCore(forward, stop_tokens, self._publish, embedder, fallbacks, speculate=speculate)

    def submit(self, ids: Sequence[int], new: int, **sampling) -> tuple[Ticket, Outcome]:
        outcome = Outcome()
        return self.engine.submit(Prepared(list(ids)), Sampling(new, **sampling), outcome), outcome

    def submit_prepared(self, prepared: Prepared, new: int, **sampling) -> tuple[Ticket, Outcome]:
        outcome = Outcome()
        return self.engine.submit(prepared, Sampling(new, **sampling), outcome), outcome

    def run(self) -> None:
        while self.engine.step():
            pass

    def _publish(self, events: list[TokenEvent]) -> None:
        for event in events:
            outcome = event.ticket.sink
            assert outcome.finish is None, "an event after the end"
            if event.token is not None:
                outcome.tokens.append(event.token)
            outcome.finish, outcome.error = event.finish, event.error


def load_model(folder, dtype=torch.float32):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def forward_of(kind: str, model, rows: int, length: int):
    """`flat` is our decoder (which takes the model's weights away), `padded` the model's own forward."""
    if kind == "padded":
        return PaddedForward(model, rows, length)
    return Decoder(find_stack(model), rows, length)


@torch.inference_mode()
def reference(model, ids: Sequence[int], new: int) -> list[int]:
    """Greedy tokens of transformers' own generate."""
    prompt = torch.tensor([list(ids)])
    output = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=new, min_new_tokens=new, do_sample=False,
        temperature=None, top_p=None, top_k=None,
    )  # fmt: skip
    return output[0, len(ids) :].tolist()


def prompts(count: int, seed: int = 1, longest: int = 60) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest, (count,), generator=generator).tolist()
    return [torch.randint(5, VOCABULARY - 40, (length,), generator=generator).tolist() for length in lengths]
