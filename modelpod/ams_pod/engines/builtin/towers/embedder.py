"""From a request's media to a prompt: features of the towers in the places of their placeholders."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ams_pod.engines.builtin.prompts.media_prompts import MediaInputs
from ams_pod.engines.builtin.prompts.pieces import Piece
from ams_pod.engines.builtin.towers.interruptible import between_parts, make_interruptible
from ams_pod.engines.builtin.towers.native import make_native
from ams_pod.engines.builtin.towers.queue import Features, Prompt
from ams_pod.engines.port import Prepared

# The features of each of some pieces' inputs, all computed in one call.
Tower = Callable[[Sequence[Any]], list[Features]]
# Rope positions [3, tokens] from ids [tokens] and the media among them.
Positions = Callable[[Tensor, MediaInputs], Tensor]


def _nothing() -> None:
    """What is done between two layers when nobody waits for it."""


class MediaEmbedder:
    """The `Embedder` of every family with media; `towers` and `positions` are what differs between them.

    `embedding` turns ids into embeddings. `modules` are the models' parts that the towers run: they are made
    native where they can be, and interruptible. Without `positions` they are those of a text.
    """

    def __init__(
        self,
        embedding: Any,
        towers: Mapping[str, Tower],
        modules: Sequence[nn.Module],
        positions: Positions | None = None,
    ) -> None:
        self._embedding = embedding
        self._device = next(chain(embedding.parameters(), embedding.buffers())).device
        self._towers = towers
        self._positions = positions
        for module in modules:
            make_native(module)
            make_interruptible(module)

    def pieces(self, prepared: Prepared) -> Sequence[Piece]:
        pieces: Sequence[Piece] = prepared.media.pieces
        return pieces

    @torch.inference_mode()
    def encode(self, pieces: Sequence[Piece], between: Callable[[], None] = _nothing) -> list[Features]:
        with between_parts(between):
            return self._towers[pieces[0].tower]([piece.inputs for piece in pieces])

    def embed(self, prepared: Prepared) -> Prompt:
        """The prompt of a request, with one call for each tower: for few and small media."""
        pieces = self.pieces(prepared)
        features: dict[int, Features] = {}
        for tower in dict.fromkeys(piece.tower for piece in pieces):
            indices = [index for index, piece in enumerate(pieces) if piece.tower == tower]
            features |= zip(indices, self.encode([pieces[index] for index in indices]), strict=True)
        return self.merge(prepared, [features[index] for index in range(len(pieces))])

    @torch.inference_mode()
    def merge(self, prepared: Prepared, features: Sequence[Features]) -> Prompt:
        ids = torch.tensor(list(prepared.ids))
        embeds = self._embedding(ids.to(self._device))
        deep = _no_deep_features(features, embeds)
        by_token: dict[int, list[Features]] = {}
        for piece, result in zip(prepared.media.pieces, features, strict=True):
            by_token.setdefault(piece.token, []).append(result)
        for token, results in by_token.items():
            places = (ids == token).to(embeds.device)
            embeds[places] = torch.cat([each.embeds for each in results]).to(embeds)
            if deep is not None and (levels := [each.deep for each in results if each.deep is not None]):
                deep[:, places] = torch.cat(levels, 1).to(deep)
        positions, delta = self._placed(ids, prepared)
        return Prompt(embeds, positions, delta, deep)

    @torch.inference_mode()
    def without_media(self, prepared: Prepared) -> tuple[Prompt, int]:
        positions, delta = self._placed(torch.tensor(list(prepared.ids)), prepared)
        return Prompt(None, positions, delta), max(prepared.media.ends)

    def _placed(self, ids: Tensor, prepared: Prepared) -> tuple[Tensor | None, int]:
        """Rope positions [3, tokens], None where they are a text's; and from a new token's index to its position."""
        if self._positions is None:
            return None, 0
        positions = self._positions(ids, prepared.media)
        # New tokens follow the last one, as in `generate`. That of a long video's frames may lie further.
        return positions.to(self._device), int(positions[0, -1]) + 1 - len(ids)


def _no_deep_features(features: Sequence[Features], embeds: Tensor) -> Tensor | None:
    """Zeros for all tokens and as many layers as any of the features have; None if none has any."""
    layers = max((len(each.deep) for each in features if each.deep is not None), default=0)
    return embeds.new_zeros(layers, *embeds.shape) if layers else None
