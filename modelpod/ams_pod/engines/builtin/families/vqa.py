"""Visual question answering: BLIP. One image and one question; the answer is a few words."""

from collections.abc import Sequence
from typing import Any, Literal

from ams_common.families import BY_NAME, modalities_of
from ams_common.lifecycle import Phase
from PIL import Image as Picture
from transformers import AutoModelForVisualQuestionAnswering, AutoProcessor

from ams_pod.engines.builtin.load_request import LoadRequest
from ams_pod.engines.builtin.memory import device_memory, placing
from ams_pod.engines.builtin.memory.placing import Placement, place_weights
from ams_pod.engines.builtin.micro_batches import MicroBatchCore
from ams_pod.engines.builtin.model.weights import (
    count_parameters,
    load_processor,
    load_weights,
    weight_bytes,
)
from ams_pod.engines.builtin.scheduler.ladder import parse_fallbacks
from ams_pod.engines.builtin.scheduler.oom_policy import OomFallbacks
from ams_pod.engines.builtin.towers.native import make_native
from ams_pod.engines.port import (
    PLAIN_CHAT,
    Capabilities,
    ChatOptions,
    Constraint,
    EngineCounters,
    EngineRefusal,
    MemoryUsage,
    ModelInfo,
    Occupancy,
    Prepared,
    Sampling,
    Sink,
    Ticket,
    context_exceeded,
)
from ams_pod.engines.prompts.control_tokens import ControlTokens
from ams_pod.engines.prompts.folder import read_model_config
from ams_pod.engines.prompts.text import StreamDetokenizer, unsupported_modality
from ams_pod.engines.prompts.token_bytes import TokenBytes
from ams_pod.media.items import Image
from ams_pod.shares import EVERYBODY, Share

PRELOAD = (
    "transformers.models.blip.modeling_blip",
    "transformers.models.blip.processing_blip",
    "transformers.models.blip.image_processing_blip",
    "torchvision.transforms.v2.functional",
)


class VqaEngine:
    """A loaded BLIP with its core: the `Engine` of the vqa family."""

    def __init__(self, info: ModelInfo, processor: Any, core: MicroBatchCore) -> None:
        self.info = info
        self.capabilities = Capabilities(modalities_of("vqa"), frozenset({"single-question"}))
        self._processor = processor
        self._tokenizer = processor.tokenizer.backend_tokenizer
        self._control = ControlTokens(self._tokenizer)
        self._bytes = TokenBytes(self._tokenizer)
        self.core = core

    @property
    def counters(self) -> EngineCounters:
        return self.core.counters

    def prepare_chat(self, messages: Sequence[dict[str, Any]], options: ChatOptions = PLAIN_CHAT) -> Prepared:
        """One user message with one image and a question. EngineRefusal for anything else."""
        if options != PLAIN_CHAT:
            raise EngineRefusal("unsupported", "This model answers a question about an image: it has no chat template.")
        if len(messages) != 1 or messages[0]["role"] != "user":
            raise _refused(
                "This model answers one question about one image: send one user message and no system prompt."
            )
        content = messages[0]["content"]
        parts: list[dict[str, Any]] = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts:
            if part["type"] not in ("text", "image"):
                raise unsupported_modality(part["type"], self.capabilities.modalities)
        images: list[Image] = [part["image"] for part in parts if part["type"] == "image"]
        question = "\n".join(part["text"] for part in parts if part["type"] == "text").strip()
        if len(images) != 1:
            raise _refused(f"This model answers a question about exactly one image; there are {len(images)}.", "image")
        if not question:
            raise EngineRefusal("missing-prompt", "There is no question about the image.", part="prompt")
        disguise = self._control.disguise([question])
        ids = self._control.encode(disguise.put_on(question), disguise, special=True)
        if len(ids) > self.info.context_tokens:
            raise context_exceeded(self.info.context_tokens, len(ids))
        pixels = self._processor.image_processor(
            images=[Picture.fromarray(images[0].pixels)], return_tensors="pt"
        ).pixel_values[0]
        return Prepared(ids, media=pixels, media_items=1)

    def prepare_text(self, text: str) -> Prepared:
        raise _refused("This model needs an image; use /generate or /v1/chat/completions.", "prompt")

    def prepare_ids(self, ids: Sequence[int]) -> Prepared:
        raise _refused("This model needs an image; use /generate or /v1/chat/completions.", "prompt")

    def prepare_pair(self, query: str, text: str) -> Prepared:
        raise EngineRefusal("unsupported", "This model doesn't compare texts.")

    def prepare_constraint(self, constraint: Constraint) -> Any:
        raise EngineRefusal("unsupported", "This model's answers can't be held to a form.")

    def detokenizer(self, after: Sequence[int] = (), *, special: bool = False) -> StreamDetokenizer:
        return StreamDetokenizer(self._tokenizer, after, special=special)

    def token_bytes(self, token: int) -> bytes:
        return self._bytes.of(token)

    def text_of(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    def submit(
        self, prepared: Prepared, sampling: Sampling, sink: Sink, share: Share = EVERYBODY, cache_salt: str = ""
    ) -> Ticket:
        return self.core.submit(prepared, sampling, sink, share)

    def cancel(self, ticket: Ticket) -> None:
        self.core.cancel(ticket)

    def occupancy(self) -> Occupancy:
        return self.core.occupancy()

    def memory(self) -> MemoryUsage:
        return device_memory.usage(self.info.device)

    def free_memory(self) -> None:
        self.core.free_memory()

    def run(self) -> None:
        self.core.run()

    def stop(self) -> None:
        self.core.stop()


def open_family(request: LoadRequest) -> VqaEngine:
    """The class is the one for visual question answering: the one for image-text-to-text loads another silently."""
    processor = load_processor(AutoProcessor, request.folder)
    inputs = placing.measure(
        request.folder, read_model_config(request.folder), request.settings, request.device, request.dtype
    )

    def build(placement: Placement) -> VqaEngine:
        request.report(Phase.BUILDING, None)
        model = load_weights(
            AutoModelForVisualQuestionAnswering, request.folder, placement, request.report, BY_NAME["vqa"].unquantized
        )
        return _engine(model, processor, placement, request)

    return place_weights(inputs, build)


def _engine(model: Any, processor: Any, placement: Placement, request: LoadRequest) -> VqaEngine:
    settings = request.settings
    own = int(model.config.text_config.max_position_embeddings)
    context = min(settings.context_tokens or own, own)
    request.report(Phase.PACKING, None)
    make_native(model)
    request.report(Phase.WARMING_UP, None)
    fallbacks = OomFallbacks(parse_fallbacks(settings.fallbacks), placement.device)
    core = MicroBatchCore(model, settings.concurrent_requests, context, request.publish, fallbacks)
    info = ModelInfo(
        architecture=type(model).__name__,
        family="vqa",
        device=placement.device,
        precision=str(placement.dtype).removeprefix("torch."),
        parameters=count_parameters(model),
        weights_bytes=weight_bytes(model),
        context_tokens=context,
        cache_bytes_per_token=0,
        concurrent_requests=settings.concurrent_requests,
        engine="micro-batches",
        quantization=placement.quantization,
        quantization_reason=placement.reason,
        vocabulary=model.config.text_config.vocab_size,
    )
    return VqaEngine(info, processor, core)


def _refused(sentence: str, part: Literal["messages", "prompt", "image"] = "messages") -> EngineRefusal:
    return EngineRefusal("invalid-prompt", sentence, part=part)
