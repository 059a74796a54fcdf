"""Visual question answering: BLIP. One image and one question; the answer is a few words."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ams_common.errors import ApiError
from ams_common.families import BY_NAME
from ams_common.lifecycle import Phase
from ams_common.pod_settings import ServeSettings
from PIL import Image as Picture
from transformers import AutoModelForVisualQuestionAnswering, AutoProcessor

from ams_pod.engines.builtin.memory import device_memory, placing
from ams_pod.engines.builtin.memory.placing import Placement, place
from ams_pod.engines.builtin.micro_batches import VqaEngine
from ams_pod.engines.builtin.model.weights import (
    count_parameters,
    load_processor,
    load_weights,
    read_config,
    weight_bytes,
)
from ams_pod.engines.builtin.prompts.text import StreamDetokenizer
from ams_pod.engines.builtin.scheduler.ladder import parse_fallbacks
from ams_pod.engines.builtin.scheduler.oom_policy import Relief
from ams_pod.engines.port import (
    EngineCounters,
    EngineLoad,
    ModelInfo,
    Prepared,
    Publish,
    ReportPhase,
    Sampling,
    Ticket,
)
from ams_pod.media.items import Image


class VqaRuntime:
    """A loaded BLIP with its engine: the `Runtime` of the vqa family."""

    def __init__(self, info: ModelInfo, processor: Any, engine: VqaEngine) -> None:
        self.info = info
        self._processor = processor
        self._tokenizer = processor.tokenizer.backend_tokenizer
        self._engine = engine

    @property
    def counters(self) -> EngineCounters:
        return self._engine.counters

    def prepare_chat(self, messages: Sequence[dict[str, Any]]) -> Prepared:
        """One user message with one image and a question. ApiError for anything else."""
        if len(messages) != 1 or messages[0]["role"] != "user":
            raise _refused(
                "This model answers one question about one image: send one user message and no system prompt."
            )
        content = messages[0]["content"]
        parts: list[dict[str, Any]] = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts:
            if part["type"] not in ("text", "image"):
                raise ApiError(
                    "unsupported_modality",
                    f"This model takes image and text, not {part['type']}.",
                    modalities=list(self.info.modalities),
                )
        images: list[Image] = [part["image"] for part in parts if part["type"] == "image"]
        question = "\n".join(part["text"] for part in parts if part["type"] == "text").strip()
        if len(images) != 1:
            raise _refused(f"This model answers a question about exactly one image; there are {len(images)}.", "image")
        if not question:
            raise ApiError("missing_prompt", "There is no question about the image.", param="prompt")
        ids = self._processor.tokenizer(question).input_ids
        if len(ids) > self.info.context_tokens:
            raise ApiError(
                "context_length_exceeded",
                f"The question has {len(ids)} tokens; this model takes {self.info.context_tokens}.",
                limit=self.info.context_tokens,
                given=len(ids),
            )
        pixels = self._processor.image_processor(
            images=[Picture.fromarray(images[0].pixels)], return_tensors="pt"
        ).pixel_values[0]
        return Prepared(ids, media=pixels, media_items=1)

    def prepare_text(self, text: str) -> Prepared:
        raise _refused("This model needs an image; use /generate or /v1/chat/completions.", "prompt")

    def prepare_ids(self, ids: Sequence[int]) -> Prepared:
        raise _refused("This model needs an image; use /generate or /v1/chat/completions.", "prompt")

    def detokenizer(self) -> StreamDetokenizer:
        return StreamDetokenizer(self._tokenizer)

    def submit(self, prepared: Prepared, sampling: Sampling, sink: Any) -> Ticket:
        return self._engine.submit(prepared, sampling, sink)

    def load(self) -> EngineLoad:
        return self._engine.load()

    def memory(self) -> dict[str, Any]:
        return device_memory.status(self.info.device)

    def free_memory(self) -> None:
        self._engine.free_memory()

    def run(self) -> None:
        self._engine.run()

    def stop(self) -> None:
        self._engine.stop()


def load(
    folder: Path,
    settings: ServeSettings,
    device: str,
    dtype: torch.dtype,
    publish: Publish,
    report: ReportPhase,
) -> VqaRuntime:
    """The class is the one for visual question answering: the one for image-text-to-text loads another silently."""
    processor = load_processor(AutoProcessor, folder)
    situation = placing.look(folder, read_config(folder), settings, device, dtype)

    def build(placement: Placement) -> VqaRuntime:
        report(Phase.BUILDING, None)
        model = load_weights(AutoModelForVisualQuestionAnswering, folder, placement, report)
        return _runtime(model, processor, placement, settings, publish, report)

    return place(situation, build)


def _runtime(
    model: Any, processor: Any, placement: Placement, settings: ServeSettings, publish: Publish, report: ReportPhase
) -> VqaRuntime:
    own = int(model.config.text_config.max_position_embeddings)
    context = min(settings.context_tokens or own, own)
    report(Phase.WARMING_UP, None)
    relief = Relief(parse_fallbacks(settings.fallbacks), placement.device)
    engine = VqaEngine(model, settings.concurrent_requests, context, publish, relief)
    info = ModelInfo(
        architecture=type(model).__name__,
        family="vqa",
        modalities=tuple(sorted(BY_NAME["vqa"].modalities)),
        device=placement.device,
        precision=str(placement.dtype).removeprefix("torch."),
        parameters=count_parameters(model),
        weights_bytes=weight_bytes(model),
        context_tokens=context,
        cache_bytes_per_token=0,
        concurrent_requests=settings.concurrent_requests,
        engine="micro-batches",
        thinks=False,
        quantization=placement.quantization,
        quantization_reason=placement.reason,
    )
    return VqaRuntime(info, processor, engine)


def _refused(sentence: str, param: str = "messages") -> ApiError:
    return ApiError("invalid_parameter", sentence, param=param)
