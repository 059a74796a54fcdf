"""From a folder of weights to a running engine."""

import contextlib
import json
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from ams_common.pod import ServeSettings
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ams_pod.runtime import memory, verify
from ams_pod.runtime.batch import Forward
from ams_pod.runtime.decoder import Decoder
from ams_pod.runtime.engine import Engine
from ams_pod.runtime.interface import (
    EngineCounters,
    EngineLoad,
    LoadFailed,
    ModelInfo,
    Prepared,
    Publish,
    ReportPhase,
    Sampling,
    Ticket,
)
from ams_pod.runtime.padded import PaddedForward, cache_bytes_per_token
from ams_pod.runtime.stack import UnsupportedStack, find_stack
from ams_pod.runtime.text import StreamDetokenizer, TextPrompts, sampling_defaults, stop_tokens
from ams_pod.runtime.threads import default_threads

log = logging.getLogger(__name__)
_READ_BLOCK = 8 << 20


class TextRuntime:
    """A loaded causal language model with its engine: the `Runtime` of the text family."""

    def __init__(self, info: ModelInfo, prompts: TextPrompts, engine: Engine) -> None:
        self.info = info
        self._prompts = prompts
        self._engine = engine

    @property
    def counters(self) -> EngineCounters:
        return self._engine.counters

    def prepare_chat(self, messages: Sequence[dict[str, Any]]) -> Prepared:
        return self._prompts.chat(messages)

    def prepare_text(self, text: str) -> Prepared:
        return self._prompts.text(text)

    def prepare_ids(self, ids: Sequence[int]) -> Prepared:
        return self._prompts.ids(ids)

    def detokenizer(self) -> StreamDetokenizer:
        return self._prompts.detokenizer()

    def submit(self, prepared: Prepared, sampling: Sampling, sink: Any) -> Ticket:
        return self._engine.submit(prepared, sampling, sink)

    def load(self) -> EngineLoad:
        return self._engine.load()

    def memory(self) -> dict[str, Any]:
        return memory.status(self.info.device)

    def free_memory(self) -> None:
        """Nothing is kept between requests yet."""

    def run(self) -> None:
        self._engine.run()

    def stop(self) -> None:
        self._engine.stop()


def load(folder: Path, settings: ServeSettings, publish: Publish, report: ReportPhase) -> TextRuntime:
    """Load and check the model in `folder`; LoadFailed if it can't be served.

    Call it on the compute thread: a second thread with multi-threaded torch operations would slow both for good.
    """
    torch.set_num_threads(settings.threads or default_threads())
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    config = _read_config(folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = choose_dtype(settings.precision, device)
    report("reading", 0.0)
    _read_ahead(folder)
    model, tokenizer = _load_modules(folder, dtype, device, settings, report)
    parameters = sum(p.numel() for p in model.parameters())
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    context = _context(settings, config, model)
    forward = _build_forward(folder, model, settings, context, report, dtype, device)
    report("warming-up", None)
    prompts = TextPrompts(tokenizer, forward.length)
    engine = Engine(forward, stop_tokens(folder, tokenizer), publish)
    info = ModelInfo(
        architecture=type(model).__name__,
        family="text",
        modalities=("text",),
        device=device,
        precision=str(dtype).removeprefix("torch."),
        parameters=parameters,
        weights_bytes=weights,
        context_tokens=forward.length,
        cache_bytes_per_token=forward.bytes_per_token,
        concurrent_requests=forward.max_rows,
        engine=forward.name,
        thinks=prompts.thinks,
        defaults=sampling_defaults(folder),
    )
    return TextRuntime(info, prompts, engine)


def choose_dtype(precision: str, device: str) -> torch.dtype:
    """bfloat16 where the device computes in it; float32 on a CPU without bfloat16 instructions."""
    if precision != "auto":
        dtype = getattr(torch, precision)
        if device == "cpu" and dtype == torch.float16:
            raise LoadFailed("precision float16 needs a GPU; use bfloat16, float32 or auto on a CPU")
        return dtype
    if device == "cpu":
        return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LoadFailed(f"{folder} holds no config.json, so it is not a model's folder") from None
    except ValueError as error:
        raise LoadFailed(f"{folder / 'config.json'} is not valid JSON: {error}") from None
    return config


def _read_ahead(folder: Path) -> None:
    """Bring the weights into the page cache while modules are built: a cold load waits for reading most."""

    def read() -> None:
        for path in sorted(folder.glob("*.safetensors")):
            with contextlib.suppress(OSError), path.open("rb", buffering=0) as file:
                while file.read(_READ_BLOCK):
                    pass

    threading.Thread(target=read, name="read-ahead", daemon=True).start()


def _load_modules(
    folder: Path, dtype: torch.dtype, device: str, settings: ServeSettings, report: ReportPhase
) -> tuple[Any, Any]:
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        report("building", None)
        model = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=dtype, local_files_only=True, attn_implementation="sdpa"
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise LoadFailed(f"{type(error).__name__}: {error}") from error
    return model.to(device).eval(), tokenizer


def _context(settings: ServeSettings, config: dict[str, Any], model: Any) -> int:
    own = int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or 4096)
    if not settings.context_tokens:
        per_token = cache_bytes_per_token(model)
        return memory.fit_context(own, per_token, settings.concurrent_requests, memory.available_bytes())
    if settings.context_tokens < verify.SHORTEST_CONTEXT:
        raise LoadFailed(f"limits.contextTokens is {settings.context_tokens}; at least {verify.SHORTEST_CONTEXT}")
    if settings.context_tokens > own:
        raise LoadFailed(f"limits.contextTokens is {settings.context_tokens}, but the model was made for {own}")
    return settings.context_tokens


def _build_forward(
    folder: Path,
    model: Any,
    settings: ServeSettings,
    context: int,
    report: ReportPhase,
    dtype: torch.dtype,
    device: str,
) -> Forward:
    """Our decoder if it computes what the model's own forward does, else that forward."""
    try:
        stack = find_stack(model)
    except UnsupportedStack as reason:
        log.info("the model runs through transformers' forward: %s", reason)
        return PaddedForward(model, settings.concurrent_requests, context)
    rows = settings.concurrent_requests
    prompts = verify.probe_prompts(model.get_input_embeddings().weight.shape[0], rows)
    expected = verify.expected_logits(model, prompts)
    decoder = Decoder(stack, rows, context, lambda percent: report("packing", percent))
    distance = verify.distance(decoder, prompts, expected)
    if verify.close_enough(distance, dtype):
        return decoder
    log.warning("our decoder differs from the model's own forward by %.3g: the latter serves", distance)
    del decoder, stack
    model, _ = _load_modules(folder, dtype, device, settings, report)  # the decoder took the first one's weights
    return PaddedForward(model, settings.concurrent_requests, context)
