"""From a request's media to a prompt: features of the towers in the places of their placeholders."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ams_pod.runtime.interface import Prepared
from ams_pod.runtime.media_prompts import MediaInputs
from ams_pod.runtime.towers import Piece, Prompt

# The features [tokens, hidden] of each of some pieces' inputs, all computed in one call.
Tower = Callable[[Sequence[Any]], list[Tensor]]
# Rope positions [3, tokens] from ids [tokens] and the media among them.
Positions = Callable[[Tensor, MediaInputs], Tensor]


class MediaEmbedder:
    """The `Embedder` of every family with media; `towers` and `positions` are what differs between them.

    `embedding` turns ids into embeddings. Without `positions` they are those of a text.
    """

    def __init__(self, embedding: Any, towers: Mapping[str, Tower], positions: Positions | None = None) -> None:
        self._embedding = embedding
        self._towers = towers
        self._positions = positions

    def pieces(self, prepared: Prepared) -> Sequence[Piece]:
        pieces: Sequence[Piece] = prepared.media.pieces
        return pieces

    @torch.inference_mode()
    def encode(self, pieces: Sequence[Piece]) -> list[Tensor]:
        return self._towers[pieces[0].tower]([piece.inputs for piece in pieces])

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
