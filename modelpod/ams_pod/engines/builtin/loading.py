"""From a folder of weights to a running engine."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from ams_common.families import UnsupportedArchitecture, family_of
from ams_common.pod_settings import ServeSettings

from ams_pod.engines.builtin import compiled
from ams_pod.engines.builtin.families import family_module
from ams_pod.engines.builtin.load_request import LoadRequest
from ams_pod.engines.builtin.memory.placing import best_dtype
from ams_pod.engines.builtin.model.native.preview import kernels_compute
from ams_pod.engines.builtin.threads import default_threads
from ams_pod.engines.port import Engine, LoadFailed, Publish, ReportPhase
from ams_pod.engines.prompts.embedding import is_sentence_transformer
from ams_pod.engines.prompts.folder import read_model_config


def load_engine(folder: Path, settings: ServeSettings, publish: Publish, report: ReportPhase) -> Engine:
    """Load and check the model in `folder`, by its family; LoadFailed if it can't be served.

    Call it on the compute thread: a second thread with multi-threaded torch operations would slow both for good.
    """
    gc.freeze()  # what was imported stays: a full collection that walks it stops everything for 50 ms
    torch.set_num_threads(settings.threads or default_threads())
    choose_kernels(settings.kernels)
    compiled.use_threads(torch.get_num_threads())
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    family = choose_family(settings.family, read_model_config(folder), makes_embeddings=is_sentence_transformer(folder))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = choose_dtype(settings.precision, device, lambda: family == "text" and kernels_compute(folder))
    engine: Engine = family_module(family).open_family(LoadRequest(folder, settings, device, dtype, publish, report))
    return engine


def choose_family(setting: str, config: dict[str, Any], *, makes_embeddings: bool = False) -> str:
    """The family that is set, or the one of the architectures that config.json names.

    `makes_embeddings`: the folder says that its model is for embeddings, whatever its architecture is called.
    """
    if setting != "auto":
        return setting
    if makes_embeddings:
        return "embedding"
    architectures = config.get("architectures")
    try:
        return family_of(architectures if isinstance(architectures, list) else []).name
    except UnsupportedArchitecture as error:
        raise LoadFailed(str(error)) from None


def choose_kernels(setting: str) -> None:
    """LoadFailed where those for one kind of processor are asked for, and can't be used."""
    compiled.choose(setting)
    if setting in compiled.VARIANTS and (reason := compiled.unavailable()):
        raise LoadFailed(f"the kernels {setting} are asked for (AMS_KERNELS), but {reason}")


def choose_dtype(precision: str, device: str, kernels_compute: Callable[[], bool] = lambda: False) -> torch.dtype:
    """bfloat16 where the device computes in it, or the compiled kernels do; else float32 on a CPU.

    `kernels_compute`: whether they compute this model. LoadFailed for a precision that the device doesn't have.
    """
    if precision != "auto":
        dtype: torch.dtype = getattr(torch, precision)
        if device == "cpu" and dtype == torch.float16:
            raise LoadFailed("precision float16 needs a GPU; use bfloat16, float32 or auto on a CPU")
        return dtype
    dtype = best_dtype(device)
    return torch.bfloat16 if device == "cpu" and dtype != torch.bfloat16 and kernels_compute() else dtype
