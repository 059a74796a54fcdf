"""Audio-language: Qwen2-Audio. Text with any number of clips.

Its encoder hears 30 seconds at a time, and its processor would drop the rest silently. A longer clip reaches the
model as several clips of at most 30 seconds that follow each other in the prompt, so that nothing is lost.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration
from transformers.masking_utils import create_bidirectional_mask

from ams_pod.engines.builtin.causal_lm import CausalLmEngine, build
from ams_pod.engines.builtin.load_request import LoadRequest
from ams_pod.engines.builtin.model.weights import load_processor
from ams_pod.engines.builtin.prompts.media_probe import PROBE_CONTEXT, media_probe
from ams_pod.engines.builtin.prompts.media_prompts import Expansion, MediaPrompts
from ams_pod.engines.builtin.prompts.pieces import Piece
from ams_pod.engines.builtin.recipe import Recipe
from ams_pod.engines.builtin.towers import sound
from ams_pod.engines.builtin.towers.embedder import MediaEmbedder
from ams_pod.engines.builtin.towers.queue import Features
from ams_pod.media.items import Audio, Samples
from ams_pod.media.sizing import NO_RULES

PRELOAD = (
    "transformers.models.qwen2_audio.modeling_qwen2_audio",
    "transformers.models.qwen2_audio.processing_qwen2_audio",
    "transformers.models.whisper.feature_extraction_whisper",
)


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """A clip's spectrogram [1, bins, frames] and mask [1, frames], padded to what the encoder takes; its tokens."""

    features: Tensor
    mask: Tensor
    tokens: int


class ClipExpander:
    """Clips through the model's processor."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._extractor = processor.feature_extractor
        self.sizes = NO_RULES
        self.placeholders: Mapping[str, str] = {"audio": processor.audio_token}
        ids = processor.tokenizer.convert_tokens_to_ids
        self._between = [ids(processor.audio_eos_token), ids(processor.audio_bos_token)]

    def count(self, item: Audio) -> int:
        clips = self._divide(item.samples)
        tokens = sum(sound.tokens_of(sound.frames_of(len(clip), self._extractor.hop_length)) for clip in clips)
        return tokens + len(self._between) * (len(clips) - 1)

    def process(self, item: Audio) -> Mapping[str, Tensor]:
        """As one clip: of a longer one the processor drops the rest."""
        made = self._processor(
            text=[self._processor.audio_token],
            audio=[sound.long_enough(item.samples, self._extractor.hop_length)],
            audio_kwargs={"sampling_rate": item.rate},
            return_tensors="pt",
        )
        return dict(made)

    def expand(self, item: Audio) -> Expansion:
        ids: list[int] = []
        pieces = []
        for clip in self._divide(item.samples):
            made = self.process(Audio(clip, item.rate))
            tokens = made["input_ids"][0].tolist()
            ids += [*(self._between if ids else []), *tokens]
            inputs = Clip(made["input_features"], made["feature_attention_mask"], len(tokens))
            share = self._extractor.chunk_length / sound.SECONDS_PER_CALL  # a shorter one is padded, and costs as much
            pieces.append(Piece(sound.TOWER, self._processor.audio_token_id, share, inputs))
        return Expansion(ids, pieces)

    def _divide(self, samples: Samples) -> list[Samples]:
        return sound.divide(samples, self._extractor.n_samples, self._extractor.sampling_rate)


class ClipTower:
    """One call of the model's own encoder and projector for several clips.

    They are called as the model's forward does it, and not by it: the forward would run the language model too, and
    hears nothing where all clips together are one token.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, clips: Sequence[Clip]) -> list[Features]:
        encoder = self._model.audio_tower
        device = encoder.device
        spectrograms = torch.cat([clip.features for clip in clips]).to(device)
        heard = [sound.positions_of(int(clip.mask.sum())) for clip in clips]
        positions = sound.positions_of(spectrograms.shape[2])
        mask = torch.arange(positions)[None] < torch.tensor(heard)[:, None]
        encoded = encoder(
            spectrograms,
            attention_mask=create_bidirectional_mask(
                config=encoder.config,
                inputs_embeds=torch.zeros(len(clips), positions, 1, dtype=encoder.dtype, device=device),
                attention_mask=mask.long().to(device),
            ),
        )
        embeds = self._model.multi_modal_projector(encoded.last_hidden_state)
        return [Features(each[: clip.tokens]) for each, clip in zip(embeds, clips, strict=True)]


@contextlib.contextmanager
def _one_layer(model: Any) -> Iterator[None]:
    """Within the block the encoder has one layer: it takes 30 seconds however short a clip is, and the check of what
    comes behind it need not wait for all of them."""
    tower = model.model.audio_tower
    layers = tower.layers
    tower.layers = layers[:1]
    try:
        yield
    finally:
        tower.layers = layers


def recipe(folder: Path) -> Recipe:
    processor = load_processor(AutoProcessor, folder)
    rate = processor.feature_extractor.sampling_rate

    def prompts(context: int) -> MediaPrompts:
        return MediaPrompts(processor.tokenizer, processor.chat_template, context, ClipExpander(processor))

    return Recipe(
        family="audio-language",
        model_class=Qwen2AudioForConditionalGeneration,
        tokenizer=processor.tokenizer,
        prompts=prompts,
        probe=lambda: media_probe(prompts(PROBE_CONTEXT), audio_rate=rate),
        while_probing=_one_layer,
        embedder=lambda model: MediaEmbedder(
            model.get_input_embeddings(),
            {sound.TOWER: ClipTower(model.model)},
            [model.model.audio_tower],
        ),
        audio_rate=rate,
    )


def open_family(request: LoadRequest) -> CausalLmEngine:
    return build(request, recipe(request.folder))
