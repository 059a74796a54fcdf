"""From a request's media to a prompt: features of the towers in the places of their placeholders."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ams_pod.engines.builtin.prompts.media_prompts import MediaInputs
from ams_pod.engines.builtin.towers.queue import Piece, Prompt
from ams_pod.engines.port import Prepared

# The features [tokens, hidden] of each of some pieces' inputs, all computed in one call.
Tower = Callable[[Sequence[Any]], list[Tensor]]
# Rope positions [3, tokens] from ids [tokens] and the media among them.
Positions = Callable[[Tensor, MediaInputs], Tensor]


def _nothing() -> None:
    """What is done between two layers when nobody waits for it."""


class MediaEmbedder:
    """The `Embedder` of every family with media; `towers` and `positions` are what differs between them.

    `embedding` turns ids into embeddings. `modules` are the models' parts that the towers run: work may be put between
    their layers. Without `positions` they are those of a text.
    """

    def __init__(
        self,
        embedding: Any,
        towers: Mapping[str, Tower],
        modules: Sequence[nn.Module],
        positions: Positions | None = None,
    ) -> None:
        self._embedding = embedding
        self._towers = towers
        self._positions = positions
        self._between: Callable[[], None] = _nothing
        for layer in (layer for module in modules for layer in _layers(module)):
            layer.register_forward_pre_hook(lambda *_: self._between())

    def pieces(self, prepared: Prepared) -> Sequence[Piece]:
        pieces: Sequence[Piece] = prepared.media.pieces
        return pieces

    @torch.inference_mode()
    def encode(self, pieces: Sequence[Piece], between: Callable[[], None] = _nothing) -> list[Tensor]:
        self._between = between
        try:
            return self._towers[pieces[0].tower]([piece.inputs for piece in pieces])
        finally:
            self._between = _nothing

    @torch.inference_mode()
    def merge(self, prepared: Prepared, features: Sequence[Tensor]) -> Prompt:
        ids = torch.tensor(list(prepared.ids))
        embeds = self._embedding(ids.to(self._embedding.weight.device))
        by_token: dict[int, list[Tensor]] = {}
        for piece, result in zip(prepared.media.pieces, features, strict=True):
            by_token.setdefault(piece.token, []).append(result)
        for token, results in by_token.items():
            embeds[(ids == token).to(embeds.device)] = torch.cat(results).to(embeds)
        if self._positions is None:
            return Prompt(embeds)
        positions = self._positions(ids, prepared.media)
        # New tokens follow the last one, as in `generate`. That of a long video's frames may lie further.
        delta = int(positions[0, -1]) + 1 - len(ids)
        return Prompt(embeds, positions.to(embeds.device), delta)


def _layers(module: nn.Module) -> list[nn.Module]:
    """What a tower runs one after another: the members of its lists of modules."""
    return [layer for part in module.modules() if isinstance(part, nn.ModuleList) for layer in part]
