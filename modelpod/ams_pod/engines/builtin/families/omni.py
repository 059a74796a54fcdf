"""Omni: the thinker of Qwen2.5-Omni. Any mix of text, images, clips, and videos with or without their sound.

It answers in text: of a checkpoint that also holds the talker, only the thinker is loaded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoProcessor, Qwen2_5OmniThinkerForConditionalGeneration

from ams_pod.engines.builtin.causal_lm import CausalLmEngine, build
from ams_pod.engines.builtin.load_request import LoadRequest
from ams_pod.engines.builtin.model.weights import load_processor
from ams_pod.engines.builtin.prompts.media_probe import PROBE_CONTEXT, media_probe
from ams_pod.engines.builtin.prompts.media_prompts import Expansion, MediaInputs, MediaPrompts
from ams_pod.engines.builtin.prompts.pieces import Piece
from ams_pod.engines.builtin.recipe import Recipe
from ams_pod.engines.builtin.towers import sound, vision
from ams_pod.engines.builtin.towers.embedder import MediaEmbedder
from ams_pod.engines.builtin.towers.interleaving import Run, interleaved, times_of
from ams_pod.engines.builtin.towers.patches import UNRESIZED, UNSCALED, patches_of
from ams_pod.engines.builtin.towers.queue import Features
from ams_pod.media.items import Audio, Image, Video

PRELOAD = (
    "transformers.models.qwen2_5_omni.modeling_qwen2_5_omni",
    "transformers.models.qwen2_5_omni.processing_qwen2_5_omni",
    "transformers.models.qwen2_vl.image_processing_qwen2_vl",
    "transformers.models.qwen2_vl.video_processing_qwen2_vl",
    "transformers.models.whisper.feature_extraction_whisper",
    "torchvision.transforms.v2.functional",
)

_AUDIO_SECONDS_PER_PIECE = 30


@dataclass(frozen=True, slots=True)
class OmniLayout:
    """What rope positions depend on: the grid of patches of an image or video, frames of the spectrogram of audio.

    A video with sound has both, and `runs`: how the tokens of both take turns. `seconds` are from one patch in time to
    the next, of a video.
    """

    kind: str
    grid: tuple[int, int, int] | None = None
    seconds: float = 0.0
    frames: int = 0
    runs: tuple[Run, ...] = ()


class OmniExpander:
    """Media through the model's processor; `window` is how many frames of a spectrogram its encoder hears together."""

    def __init__(self, processor: Any, window: int) -> None:
        self._processor = processor
        self._window = window
        self.sizes = vision.sizes(processor)
        extractor = processor.feature_extractor
        self._hop, self._overlap, self._rate = extractor.hop_length, extractor.n_fft, extractor.sampling_rate
        self.placeholders: Mapping[str, str] = {
            "image": processor.image_token,
            "audio": processor.audio_token,
            "video": processor.video_token,
        }

    def count(self, item: Image | Audio | Video) -> int:
        if isinstance(item, Audio):
            return self._sound_tokens(item)
        tokens = vision.tokens(item, self.sizes, vision.factor(self._processor))
        if isinstance(item, Video) and (sound_track := _sound_track(item)) is not None:
            tokens += self._sound_tokens(sound_track) + 2  # and the marks around both
        return tokens

    def process(self, item: Image | Audio | Video, options: Mapping[str, Any] = UNRESIZED) -> Mapping[str, Tensor]:
        processor = self._processor
        if isinstance(item, Image):
            return dict(
                processor(
                    text=[processor.image_token],
                    images=[vision.picture(item, self.sizes)],
                    images_kwargs=dict(options),
                    return_tensors="pt",
                )
            )
        if isinstance(item, Audio):
            return dict(processor(text=[processor.audio_token], return_tensors="pt", **self._sound(item)))
        sound_track = _sound_track(item)
        with_sound: dict[str, Any] = {}
        if sound_track is not None:
            with_sound = {**self._sound(sound_track), "audio_from_video_indices": [0], "load_audio_from_video": True}
        made = processor(
            text=[processor.video_token],
            videos=[vision.frames_of(item, self.sizes)],
            videos_kwargs={
                "fps": item.frame_rate,
                "do_sample_frames": False,
                **options,
                "input_data_format": "channels_last",
            },
            return_tensors="pt",
            **with_sound,
        )
        return dict(made)

    def expand(self, item: Image | Audio | Video) -> Expansion:
        made = self.process(item, UNSCALED)
        ids = made["input_ids"][0].tolist()
        if isinstance(item, Image):
            patches = patches_of(
                self._processor.image_processor, made["pixel_values"], made["image_grid_thw"], still=True
            )
            return Expansion(
                ids, vision.divide(patches, self._processor.image_token_id), OmniLayout("image", patches.grid)
            )
        if isinstance(item, Audio):
            spectrogram = _spectrogram(made)
            return Expansion(ids, self._divide(spectrogram), OmniLayout("audio", frames=spectrogram.shape[1]))
        patches = patches_of(
            self._processor.video_processor, made["pixel_values_videos"], made["video_grid_thw"], still=False
        )
        pieces = vision.divide(patches, self._processor.video_token_id)
        seconds = float(made["video_second_per_grid"][0])
        if _sound_track(item) is None:
            return Expansion(ids, pieces, OmniLayout("video", patches.grid, seconds))
        spectrogram = _spectrogram(made)
        pieces += self._divide(spectrogram)
        layout = self._layout(patches.grid, seconds, spectrogram.shape[1])
        tokens = {True: self._processor.video_token_id, False: self._processor.audio_token_id}
        ids = [ids[0], *(tokens[run.pictures] for run in layout.runs for _ in range(run.start, run.end)), ids[-1]]
        return Expansion(ids, pieces, layout)

    def _layout(self, grid: tuple[int, int, int], seconds: float, frames: int) -> OmniLayout:
        """Of a video with sound, whose spectrogram has so many frames."""
        processor = self._processor
        per_second = int(processor.position_id_per_seconds)
        time, height, width = grid
        runs = interleaved(
            times_of(time, seconds, per_second).tolist(),
            height * width // processor.video_processor.merge_size**2,
            sound.tokens_of(frames),
            int(per_second * processor.seconds_per_chunk),
        )
        return OmniLayout("video", grid, seconds, frames, runs)

    def _sound(self, item: Audio) -> dict[str, Any]:
        """The processor's arguments for a clip, padded no further than the last frame's overlap: not to 300 seconds."""
        samples = sound.long_enough(item.samples, self._hop)
        padded = -(-(len(samples) + self._overlap) // self._hop) * self._hop
        return {"audio": [samples], "audio_kwargs": {"max_length": padded, "sampling_rate": item.rate}}

    def _sound_tokens(self, item: Audio) -> int:
        return sound.tokens_of(sound.frames_of(len(item.samples), self._hop))

    def _divide(self, spectrogram: Tensor) -> list[Piece]:
        """Pieces of whole windows, which the encoder hears apart anyway; the last may be one window longer."""
        frames = spectrogram.shape[1]
        seconds = self._hop / self._rate
        step = max(1, int(_AUDIO_SECONDS_PER_PIECE / seconds / self._window)) * self._window
        starts = list(range(0, max(1, frames - self._window), step))
        ends = [*starts[1:], frames]
        return [
            Piece(
                sound.TOWER,
                self._processor.audio_token_id,
                (end - start) * seconds / sound.SECONDS_PER_CALL,
                spectrogram[:, start:end],
            )
            for start, end in zip(starts, ends, strict=True)
        ]


class SoundTower:
    """One call of the model's own audio encoder for several spectrograms [bins, frames]."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, spectrograms: Sequence[Tensor]) -> list[Features]:
        features, mask = (each.to(self._model.device) for each in sound.stack(list(spectrograms)))
        output = self._model.get_audio_features(features, feature_attention_mask=mask)
        counts = [sound.tokens_of(each.shape[1]) for each in spectrograms]
        return [Features(each) for each in output.last_hidden_state.split(counts)]


class OmniPositions:
    """Rope positions of a prompt, by the model's own rule.

    That rule knows either videos with sound or without in one prompt, and stumbles over marks of media that a user
    writes into a text. So it is applied to each medium by itself, with the mark in front of it and the one behind; the
    texts between count on.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, ids: Tensor, media: MediaInputs) -> Tensor:
        results = []
        done = begin = 0  # ids that have a position, and the next one's
        for layout, start, end in zip(media.layouts, media.starts, media.ends, strict=True):
            text = max(0, start - 1 - done)
            results.append(_counting(begin, text))
            positions = self._of_one(ids[done + text : end + 1], layout) + begin + text
            results.append(positions)
            done, begin = done + text + positions.shape[1], int(positions[:, -1].max()) + 1
        return torch.cat([*results, _counting(begin, len(ids) - done)], 1)

    def _of_one(self, ids: Tensor, layout: OmniLayout) -> Tensor:
        if layout.runs:
            return self._of_video_with_sound(layout)
        grid = torch.tensor([layout.grid]) if layout.grid is not None else None
        positions, _ = self._model.get_rope_index(
            ids[None],
            image_grid_thw=grid if layout.kind == "image" else None,
            video_grid_thw=grid if layout.kind == "video" else None,
            attention_mask=torch.ones_like(ids)[None],
            audio_seqlens=torch.tensor([layout.frames]) if layout.frames else None,
            second_per_grids=torch.tensor([layout.seconds]) if layout.kind == "video" else None,
        )
        return positions[:, 0]

    def _of_video_with_sound(self, layout: OmniLayout) -> Tensor:
        """As the model's rule has it, whose order of tokens is another: two marks at one place, pictures and sound
        from the same start, and two marks behind what comes last."""
        assert layout.grid is not None
        time, height, width = layout.grid
        merge = self._model.spatial_merge_size
        times = times_of(time, layout.seconds, self._model.config.position_id_per_seconds)
        axes = (times, torch.arange(height // merge), torch.arange(width // merge))
        pictures = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1) + 1
        heard = _counting(1, sound.tokens_of(layout.frames))
        runs = [(pictures if run.pictures else heard)[:, run.start : run.end] for run in layout.runs]
        behind = torch.full((3, 2), int(runs[-1].max()) + 1)
        return torch.cat([torch.zeros(3, 2, dtype=torch.long), *runs, behind], 1)


def _counting(begin: int, tokens: int) -> Tensor:
    """Positions [3, tokens] of a text."""
    return torch.arange(begin, begin + tokens).expand(3, -1)


def _sound_track(video: Video) -> Audio | None:
    return video.audio if video.audio is not None and len(video.audio.samples) else None


def _spectrogram(made: Mapping[str, Any]) -> Tensor:
    """[bins, frames] without padding."""
    frames = int(made["feature_attention_mask"].sum())
    spectrogram: Tensor = made["input_features"][0][:, :frames]
    return spectrogram


def recipe(folder: Path) -> Recipe:
    processor = load_processor(AutoProcessor, folder)
    config = load_processor(AutoConfig, folder)
    thinker = getattr(config, "thinker_config", config)
    rate = processor.feature_extractor.sampling_rate

    def prompts(context: int) -> MediaPrompts:
        expander = OmniExpander(processor, 2 * thinker.audio_config.n_window)
        return MediaPrompts(processor.tokenizer, processor.chat_template, context, expander)

    return Recipe(
        family="omni",
        model_class=Qwen2_5OmniThinkerForConditionalGeneration,
        tokenizer=processor.tokenizer,
        prompts=prompts,
        probe=lambda: media_probe(prompts(PROBE_CONTEXT), 2 * vision.factor(processor), rate),
        image_bytes=lambda model: vision.bytes_per_pixel(model.model.visual),
        embedder=lambda model: MediaEmbedder(
            model.get_input_embeddings(),
            {vision.TOWER: vision.VisionTower(model.model), sound.TOWER: SoundTower(model.model)},
            [model.model.visual, model.model.audio_tower],
            OmniPositions(model),
        ),
        audio_rate=rate,
    )


def open_family(request: LoadRequest) -> CausalLmEngine:
    return build(request, recipe(request.folder))
