"""Our CUDA kernels: compiled by NVRTC when a model is loaded, for its number format and the shape of its heads.

NVRTC and the calls that launch kernels come with torch's own dependencies (NVIDIA's `cuda-bindings`), so nobody needs a
compiler or a toolkit.
"""

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Protocol

import torch
from torch import Tensor

_FORMATS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_HEAD_SIZES = (16, 32, 64, 128, 256)
_LARGEST_GROUP = 8  # query heads that one block computes: more would not fit its registers
_MOST_SPLITS = 32
_WARP = 32
_TOKEN_THREADS = 256
_BLOCKS_PER_PROCESSOR = 4
_LOAD_BYTES = 16
_LOG2_E = 1.4426950408889634
_NAMES = ("add_and_norm", "silu_and_multiply", "turn_and_store", "attend", "join_shares")


class KernelsUnavailable(RuntimeError):
    """The kernels can't be made here; the message says why."""


@dataclass(frozen=True, slots=True)
class Heads:
    """The shape of attention: numbers of a head, and how many heads of queries and of keys."""

    size: int
    queries: int
    keys: int

    @property
    def group(self) -> int:
        """Query heads that one block computes: as many of a key head as fit."""
        together = self.queries // self.keys
        return max(count for count in range(1, _LARGEST_GROUP + 1) if together % count == 0)

    @property
    def parts(self) -> int:
        """How many such groups share a key head."""
        return self.queries // self.keys // self.group


@dataclass(frozen=True, slots=True)
class TokenPlaces:
    """Where each token's keys go in a layer of the cache: the row of its first head, and how far apart heads are.

    Both int64 [tokens]; a negative row means nowhere.
    """

    where: Tensor
    stride: Tensor


@dataclass(frozen=True, slots=True)
class RowPlaces:
    """The keys of each row of a step: the first one's row in a layer, its extent's capacity, and how many there are.

    All int64 [rows].
    """

    start: Tensor
    capacity: Tensor
    length: Tensor


class LayerKernels(Protocol):
    """What layers need beside matrix products. `cache` is a layer of the pool, as `KeyValuePool` has it."""

    def add_and_norm(self, x: Tensor, added: Tensor | None, weight: Tensor, epsilon: float) -> Tensor:
        """x [tokens, hidden] += added, where there is any; returned is its RMS norm times weight [hidden]."""

    def silu_and_multiply(self, both: Tensor) -> Tensor:
        """silu of the first half of [tokens, 2 * size] times the second: [tokens, size]."""

    def turn_and_store(
        self,
        qkv: Tensor,
        turns: tuple[Tensor, Tensor],
        norms: tuple[Tensor, Tensor] | None,
        epsilon: float,
        cache: Tensor,
        places: TokenPlaces,
    ) -> None:
        """Norm and turn queries and keys of qkv [tokens, heads, size]; queries stay there, keys and values are stored.

        `turns` are cos and sin [tokens, 1, size], sin with its sign folded in.
        """

    def attend(self, qkv: Tensor, cache: Tensor, rows: RowPlaces) -> Tensor:
        """[rows, query heads * size] for the queries of the first tokens of qkv, one a row."""


def why_not(dtype: torch.dtype, heads: Heads, widths: Sequence[int]) -> str:
    """Why the kernels don't know such layers; empty where they do. `widths` are of hidden states and of the MLP."""
    if dtype not in _FORMATS:
        return f"they know float32, float16 and bfloat16, and the model computes in {dtype}"
    if heads.size not in _HEAD_SIZES or heads.size * dtype.itemsize > _WARP * _LOAD_BYTES:
        return f"they don't know heads of {heads.size} in {dtype}"
    if odd := sorted(width for width in widths if width * dtype.itemsize % _LOAD_BYTES):
        return f"they know sizes that go by {_LOAD_BYTES // dtype.itemsize}, and the model has one of {odd[0]}"
    return ""


def compile_kernels(dtype: torch.dtype, heads: Heads, architecture: str) -> bytes:
    """Machine code for GPUs of an `architecture` ("sm_90"). KernelsUnavailable if NVRTC isn't there or refuses."""
    try:
        from cuda.bindings import nvrtc
    except ImportError as error:
        raise KernelsUnavailable(f"NVIDIA's cuda-bindings aren't there ({error})") from None
    source = resources.files(__package__).joinpath("kernels.cu").read_bytes()
    options = [
        f"--gpu-architecture={architecture}", "--std=c++17", "-default-device",
        f"-DFORMAT={_FORMATS[dtype]}", f"-DHEAD={heads.size}", f"-DGROUP={heads.group}", f"-DPARTS={heads.parts}",
    ]  # fmt: skip
    try:
        program = _ask(nvrtc.nvrtcCreateProgram(source, b"kernels.cu", 0, None, None))
        outcome = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])[0]
        if outcome != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            log = b" " * _ask(nvrtc.nvrtcGetProgramLogSize(program))
            _ask(nvrtc.nvrtcGetProgramLog(program, log))
            raise KernelsUnavailable(log.decode(errors="replace").strip(" \0"))
        code = b" " * _ask(nvrtc.nvrtcGetCUBINSize(program))
        _ask(nvrtc.nvrtcGetCUBIN(program, code))
        _ask(nvrtc.nvrtcDestroyProgram(program))
    except RuntimeError as error:  # the bindings find no library
        raise KernelsUnavailable(str(error)) from None
    return code


class CudaKernels:
    """`LayerKernels` on the current GPU. KernelsUnavailable if they can't be made."""

    def __init__(self, dtype: torch.dtype, heads: Heads) -> None:
        self._heads = heads
        properties = torch.cuda.get_device_properties()
        self._processors = properties.multi_processor_count
        code = compile_kernels(dtype, heads, f"sm_{properties.major}{properties.minor}")
        torch.cuda.synchronize()  # makes torch's context the current one
        try:
            from cuda.bindings import driver

            self._module = _ask(driver.cuModuleLoadData(code))
            self._functions = {name: _ask(driver.cuModuleGetFunction(self._module, name.encode())) for name in _NAMES}
        except (ImportError, RuntimeError) as error:
            raise KernelsUnavailable(str(error)) from None
        self._launch = driver.cuLaunchKernel
        self._each = _LOAD_BYTES // dtype.itemsize

    def add_and_norm(self, x: Tensor, added: Tensor | None, weight: Tensor, epsilon: float) -> Tensor:
        tokens, hidden = x.shape
        result = torch.empty_like(x)
        threads = min(1024, -(-hidden // self._each // _WARP) * _WARP)
        self._run("add_and_norm", (tokens, 1, 1), (threads, 1, 1), x, added, weight, result, hidden, epsilon)
        return result

    def silu_and_multiply(self, both: Tensor) -> Tensor:
        tokens, size = both.shape[0], both.shape[1] // 2
        result = both.new_empty(tokens, size)
        blocks = -(-size // (_TOKEN_THREADS * self._each))
        self._run("silu_and_multiply", (tokens, blocks, 1), (_TOKEN_THREADS, 1, 1), both, result, size)
        return result

    def turn_and_store(
        self,
        qkv: Tensor,
        turns: tuple[Tensor, Tensor],
        norms: tuple[Tensor, Tensor] | None,
        epsilon: float,
        cache: Tensor,
        places: TokenPlaces,
    ) -> None:
        warps = _TOKEN_THREADS // _WARP
        heads = self._heads.queries + 2 * self._heads.keys
        self._run(
            "turn_and_store", (qkv.shape[0], -(-heads // warps), 1), (_WARP, warps, 1), qkv, *turns,
            *(norms or (None, None)), epsilon, cache, _Long(cache.shape[0] // 2), places.where, places.stride,
            self._heads.queries, self._heads.keys,
        )  # fmt: skip

    def attend(self, qkv: Tensor, cache: Tensor, rows: RowPlaces) -> Tensor:
        heads, count = self._heads, rows.start.shape[0]
        result = qkv.new_empty(count, heads.queries * heads.size)
        splits = self.splits(count)
        shares = weights = None
        if splits > 1:
            shares = torch.empty(count * heads.queries * splits * heads.size, dtype=torch.float32, device=qkv.device)
            weights = torch.empty(count * heads.queries * splits * 2, dtype=torch.float32, device=qkv.device)
        self._run(
            "attend", (count, heads.keys * heads.parts, splits), (4 * _WARP, 1, 1), qkv, cache,
            _Long(cache.shape[0] // 2), rows.start, rows.capacity, rows.length, result, shares, weights,
            heads.size**-0.5 * _LOG2_E, heads.queries, heads.keys, splits,
        )  # fmt: skip
        if splits > 1:
            self._run("join_shares", (count * heads.queries, 1, 1), (heads.size, 1, 1), shares, weights, result, splits)
        return result

    def splits(self, rows: int) -> int:
        """Among how many blocks the keys of a row's head are divided, so that few rows too keep the whole GPU at it."""
        blocks = rows * self._heads.keys * self._heads.parts
        return min(_MOST_SPLITS, max(1, -(-_BLOCKS_PER_PROCESSOR * self._processors // blocks)))

    def _run(self, name: str, grid: tuple[int, int, int], block: tuple[int, int, int], *arguments: Any) -> None:
        if 0 in grid:  # a step of prompts of which none ends has no logits
            return
        values, types = zip(*map(_argument, arguments), strict=True)
        stream = torch.cuda.current_stream().cuda_stream
        _ask(self._launch(self._functions[name], *grid, *block, 0, stream, (values, types), 0))


class _Long(int):
    """A number that a kernel takes as a `long long`."""


def _argument(value: Any) -> tuple[Any, Any]:
    if isinstance(value, Tensor):
        return value.data_ptr(), ctypes.c_void_p
    if value is None:
        return 0, ctypes.c_void_p
    if isinstance(value, _Long):
        return int(value), ctypes.c_longlong
    return (value, ctypes.c_float) if isinstance(value, float) else (value, ctypes.c_int)


def _ask(answer: tuple[Any, ...]) -> Any:
    """What a call of the bindings returned. RuntimeError with CUDA's name of what went wrong."""
    if int(answer[0]) != 0:
        raise RuntimeError(f"CUDA: {answer[0].name}")
    return answer[1] if len(answer) > 1 else None


@functools.cache
def kernels_for(dtype: torch.dtype, heads: Heads) -> CudaKernels:
    """Compiled once a process and shape."""
    return CudaKernels(dtype, heads)
