"""Where the time of one step of the engine goes, beside what memory and cores of this machine allow.

    python benchmarks/step.py FOLDER --rows 1,8,32 --length 100 --json step.json

The decoder alone, without HTTP and scheduler: steps that decode rows, and prompts that are read in chunks. Steps are
timed without a profiler, of which the lower decile counts; a second, profiled run says how such a step divides. The
limits are measured here as well, before and after: reading memory with all threads, and multiplying large matrices.

"busy" is the process' CPU time over threads × time: threads that wait for each other spin, so it's near 1 unless other
programs take the cores; "preempted" counts how often they did.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, cast

import engine_servers as servers
import torch
from ams_pod.engines.builtin import compiled
from ams_pod.engines.builtin.memory.placing import Placement
from ams_pod.engines.builtin.model.batch import Batch, Chunk
from ams_pod.engines.builtin.model.decoder import Decoder
from ams_pod.engines.builtin.model.grouped import GroupedLinear
from ams_pod.engines.builtin.model.native.layers import NativeLayers
from ams_pod.engines.builtin.model.sampling import RowSampler, sample
from ams_pod.engines.builtin.model.stack import find_stack
from ams_pod.engines.builtin.model.weights import load_weights
from ams_pod.engines.port import Sampling
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

QKV, OUT, GATE_UP, DOWN, HEAD = "qkv", "out", "gate and up", "down", "head"
ATTENTION, NORMS, ROTATION, CACHE = "attention", "norms", "rotation", "cache writes"
PREPARING, SAMPLING, REST = "preparing the batch", "sampling", "Python and the rest"
WAITING = "waiting for a thread"
PARTS = (QKV, OUT, GATE_UP, DOWN, HEAD, ATTENTION, NORMS, ROTATION, CACHE, PREPARING, WAITING, SAMPLING, REST)
MATMULS = (QKV, OUT, GATE_UP, DOWN, HEAD)
_PROFILED_STEPS = 6
_PROFILED_PROMPTS = 2
_OUTER = 1024  # rows of the matrices whose multiplication gives the rate
_BUFFER = 256 << 20  # bytes; beyond every cache


@dataclass
class Limits:
    """What this machine can do with these threads, measured."""

    threads: int
    bytes_per_second: float  # read from memory
    flops: float  # of multiplications in the model's dtype, an addition and a multiplication count as two
    int8_ops: float  # the same of 8-bit integers; 0 where torch has none

    def better(self, other: "Limits") -> "Limits":
        """The higher of each."""
        return Limits(
            self.threads,
            max(self.bytes_per_second, other.bytes_per_second),
            max(self.flops, other.flops),
            max(self.int8_ops, other.int8_ops),
        )


@dataclass
class Shape:
    """What the limits need to know of the model."""

    layers: int
    matmuls: dict[str, list[int]]  # inputs and outputs of each layer's, gate and up as one; the head's
    query_heads: int
    key_heads: int
    head_size: int
    bits: float  # that one weight takes in memory


@dataclass
class Work:
    """One kind of step: rows behind so many tokens, or a prompt in chunks."""

    name: str
    rows: int = 0
    length: int = 0
    prompt: int = 0


@dataclass
class Figures:
    """Seconds of one step (or prompt), its parts, and the limits of both."""

    work: Work
    seconds: float
    parts: dict[str, float]
    busy: float
    preempted: float
    shapes: dict[str, str]
    limits: dict[str, float] = field(default_factory=dict)

    @property
    def limit(self) -> float:
        return sum(self.limits.values())


class Parts(Protocol):
    """Divides the seconds of a step, of which one takes `seconds` without being watched, by watching a few."""

    def divide(self, run: Callable[[], None], seconds: float, times: int) -> dict[str, float]: ...


class CompiledParts:
    """Of the compiled kernels, which note what each part of their calls took, by the first of their threads."""

    def divide(self, run: Callable[[], None], seconds: float, times: int) -> dict[str, float]:
        found: dict[str, list[float]] = {}
        for _ in range(times):
            compiled.timings()
            run()
            for name, part in compiled.timings().items():
                found.setdefault(name, []).append(part)
        parts = {name: statistics.median(times) for name, times in found.items()}
        return parts | {REST: max(0.0, seconds - sum(parts.values()))}


class ProfiledParts:
    """Of torch's operators, by torch's profiler: of the shortest of a few steps, less what noting each operator cost.

    What a step's parts took there are its shares of the unwatched step.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._cost = _profiler_cost()
        self._layers = cast(Any, decoder._layers)
        layers = self._layers._layers
        self._plain = layers, self._layers._head
        names = {"qkv": QKV, "out": OUT, "gate": GATE_UP, "up": GATE_UP, "gate_up": GATE_UP, "down": DOWN}
        self._named = [
            replace(layer, **{own: _Named(getattr(layer, own), names[own]) for own in names if hasattr(layer, own)})
            for layer in layers
        ], _Named(self._layers._head, HEAD)  # fmt: skip

    def divide(self, run: Callable[[], None], seconds: float, times: int) -> dict[str, float]:
        decoder: Any = self._decoder
        layers = self._layers
        layers._layers, layers._head = self._named
        methods = [(layers, "_attend", ATTENTION), (layers, "_attention", PREPARING)]
        methods += [(decoder, "_turns", PREPARING), (decoder, "_logit_rows", PREPARING)]
        for owner, method, name in methods:
            setattr(owner, method, _ranged(getattr(owner, method), _MARK + name))
        decoder.cache.rows_of = _ranged(decoder.cache.rows_of, _MARK + PREPARING)
        step = _ranged(run, _STEP)
        try:
            run()
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
                for _ in range(times):
                    step()
        finally:
            layers._layers, layers._head = self._plain
            for owner, method, _ in methods:
                delattr(owner, method)
            del decoder.cache.rows_of
        events = list(profile.events())
        shortest = min((event for event in events if event.name == _STEP), key=lambda event: event.cpu_time_total)
        return self._divided(events, shortest, seconds)

    def _divided(self, events: list[Any], step: Any, seconds: float) -> dict[str, float]:
        noted: dict[str, int] = {}
        parts: dict[str, float] = {}
        for event in events:
            name, outermost, root = _part(event)
            if root is step and event is not step:
                noted[name] = noted.get(name, 0) + 1
                if outermost:
                    parts[name] = parts.get(name, 0.0) + event.cpu_time_total / 1e6
        whole = step.cpu_time_total / 1e6 - self._cost * sum(noted.values())
        parts = {name: max(0.0, part - self._cost * noted[name]) for name, part in parts.items() if name != REST}
        scale = seconds / max(whole, sum(parts.values()))
        parts = {name: part * scale for name, part in parts.items()}
        return parts | {REST: max(0.0, seconds - sum(parts.values()))}


def _profiler_cost() -> float:
    """Seconds that the profiler takes to note one operator."""
    value = torch.zeros(1)

    def many() -> None:
        for _ in range(100):  # so few that other programs leave some of the tries alone
            value.add_(1)

    plain = _shortest(many, 50)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        watched = _shortest(many, 50)
    return max(0.0, watched - plain) / 100


_OPERATORS = {
    "aten::rms_norm": NORMS, "aten::_fused_rms_norm": NORMS, "aten::cat": ROTATION, "aten::mul_": ROTATION,
    "aten::mul": ROTATION, "aten::add_": ROTATION, "aten::index_copy_": CACHE, "aten::embedding": PREPARING,
}  # fmt: skip
_MARK = "part: "
_STEP = "step"


def _part(event: Any) -> tuple[str, bool, Any]:
    """The part that an operator belongs to, whether it is the outermost one that counts for it, and its step."""
    at, marked, outer = event, None, event
    while at.cpu_parent is not None:
        if at.name.startswith(_MARK):
            marked = at
        outer, at = at, at.cpu_parent
    if marked is not None:
        return marked.name.removeprefix(_MARK), marked is event, at
    return _OPERATORS.get(outer.name, REST), outer is event, at


def _ranged(call: Callable[..., Any], name: str) -> Callable[..., Any]:
    def ranged(*arguments: Any, **options: Any) -> Any:
        with torch.profiler.record_function(name):
            return call(*arguments, **options)

    return ranged


class _Named:
    """A linear layer whose calls are noted under its part's name."""

    def __init__(self, linear: Any, name: str) -> None:
        self._linear, self._call = linear, _ranged(lambda call, *arguments: call(*arguments), _MARK + name)

    def __call__(self, x: Tensor) -> Tensor:
        return self._call(self._linear, x)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._linear, name)
        return lambda *arguments: self._call(method, *arguments)


class Steps:
    """A decoder whose steps are timed and divided."""

    def __init__(
        self, folder: Path, rows: int, length: int, bits: float, placement: Placement, clock: Callable[[], float]
    ) -> None:
        self._clock = clock
        model = load_weights(AutoModelForCausalLM, folder, placement, lambda phase, percent: None)
        stack = find_stack(model)
        self.shape = _shape(stack, bits or _bits(stack))
        self.decoder = Decoder(stack, rows, length)
        kernels = isinstance(self.decoder._layers, NativeLayers)
        self._parts: Parts = CompiledParts() if kernels else ProfiledParts(self.decoder)
        self.how = type(self._parts).__name__

    def measure(self, work: Work, count: int, chunk: int) -> Figures:
        run, sampled = (self._prompt(work, chunk), 0.0) if work.prompt else (self._decoding(work), self._sampling(work))
        for _ in range(3):
            run()
        cpu, preempted, began = time.process_time(), _preemptions(), time.perf_counter()
        times = []
        for _ in range(count):
            started = self._clock()
            run()
            times.append(self._clock() - started)
        wall = time.perf_counter() - began
        busy = (time.process_time() - cpu) / wall / torch.get_num_threads()
        preempted = (_preemptions() - preempted) / count
        seconds = _lower(times)
        parts = self._parts.divide(run, seconds, _PROFILED_PROMPTS if work.prompt else _PROFILED_STEPS)
        self.decoder.reset()
        if sampled:
            parts[SAMPLING] = parts.get(SAMPLING, 0.0) + sampled
        shapes = {name: f"{inputs} × {outputs}" for name, (inputs, outputs) in self.shape.matmuls.items()}
        return Figures(work, seconds + sampled, parts, busy, preempted, shapes)

    def _decoding(self, work: Work) -> Callable[[], None]:
        ids = [10 + index % 1000 for index in range(work.length)]
        for slot in range(work.rows):
            self.decoder.step(Batch([], [], [], [], [Chunk(slot, 0, ids, True)]))
        rows = work.rows
        batch = Batch(list(range(rows)), [5] * rows, [work.length] * rows, [0] * rows, [])
        return lambda: self._read(self.decoder.step(batch))

    def _prompt(self, work: Work, chunk: int) -> Callable[[], None]:
        ids = [10 + index % 1000 for index in range(work.prompt)]
        starts = range(0, work.prompt, chunk)
        batches = [
            Batch([], [], [], [], [Chunk(0, at, ids[at : at + chunk], at + chunk >= work.prompt)]) for at in starts
        ]

        def run() -> None:
            for batch in batches:
                logits = self.decoder.step(batch)
            self._read(logits)

        return run

    def _sampling(self, work: Work) -> float:
        """Seconds of choosing greedy tokens."""
        samplers = [RowSampler(Sampling(1), ()) for _ in range(work.rows)]
        logits = torch.randn(work.rows, self.shape.matmuls[HEAD][1]).bfloat16()
        times = []
        for _ in range(12):
            started = time.perf_counter()
            sample(logits, samplers)
            times.append(time.perf_counter() - started)
        return _lower(times[2:])

    def _read(self, logits: Tensor) -> None:
        logits[0, 0].item()


def _preemptions() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _bits(stack: Any) -> float:
    """Of a weight in memory, on average over the layers that a step reads."""
    layers = [module for layer in stack.body.layers for module in layer.modules() if isinstance(module, nn.Linear)]
    read = [*layers, stack.head]
    sizes = [module.packed.nbytes if isinstance(module, GroupedLinear) else module.weight.nbytes for module in read]
    weights = sum(module.in_features * module.out_features for module in read)
    return 8 * float(sum(sizes)) / float(weights)


def _shape(stack: Any, bits: float) -> Shape:
    layer = stack.body.layers[0]
    attention, mlp = layer.self_attn, layer.mlp

    def sizes(*modules: Any) -> list[int]:
        return [modules[0].in_features, sum(module.out_features for module in modules)]

    matmuls = {
        QKV: sizes(attention.q_proj, attention.k_proj, attention.v_proj), OUT: sizes(attention.o_proj),
        GATE_UP: sizes(mlp.gate_proj, mlp.up_proj), DOWN: sizes(mlp.down_proj), HEAD: sizes(stack.head),
    }  # fmt: skip
    return Shape(len(stack.body.layers), matmuls, stack.query_heads, stack.key_heads, stack.head_size, bits)


def least(shape: Shape, work: Work, chunk: int, limits: Limits) -> dict[str, float]:
    """Seconds that matmuls and attention take at the least: of reading once and computing, the longer."""
    found: dict[str, float] = {}
    steps = [(work.rows, work.rows)]
    if work.prompt:
        steps = [(min(chunk, work.prompt - at), int(at + chunk >= work.prompt)) for at in range(0, work.prompt, chunk)]
    for name, (inputs, outputs) in shape.matmuls.items():
        times = 1 if name == HEAD else shape.layers
        for tokens, logits in steps:
            rows = logits if name == HEAD else tokens
            if not rows:
                continue
            reading = inputs * outputs * shape.bits / 8 / limits.bytes_per_second
            seconds = times * max(reading, 2 * rows * inputs * outputs / limits.flops)
            found[name] = found.get(name, 0.0) + seconds
    pairs, keys = work.rows * (work.length + 1), work.rows * (work.length + 1)
    if work.prompt:
        pairs, keys = work.prompt * (work.prompt + 1) // 2, sum(range(chunk, work.prompt, chunk)) + work.prompt
    computing = 4 * pairs * shape.query_heads * shape.head_size / limits.flops
    reading = keys * 2 * shape.key_heads * shape.head_size * 2 / limits.bytes_per_second
    found[ATTENTION] = shape.layers * max(computing, reading)
    return found


def measure_limits(dtype: torch.dtype) -> Limits:
    """Best of several tries each, as other programs only make them slower."""
    buffer = torch.ones(_BUFFER // 4)
    rows, vector = buffer.view(-1, 4096), torch.ones(4096)
    reads = (lambda: buffer.sum(), lambda: torch.mv(rows, vector), lambda: buffer.view(torch.int64).amax())
    bandwidth = _BUFFER / min(_shortest(read, 8) for read in reads)
    square = torch.randn(_OUTER, 2048).to(dtype)
    weight = torch.randn(2048, 2048).to(dtype)
    flops = 2 * _OUTER * 2048 * 2048
    rate = flops / _shortest(lambda: torch.nn.functional.linear(square, weight), 12)
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, _OUTER)
        times = _shortest(lambda: torch.ops.mkldnn._linear_pointwise(square, packed, None, "none", [], ""), 12)
        rate = max(rate, flops / times)
    except (AttributeError, RuntimeError):
        pass
    try:
        whole = torch.randint(-100, 100, (_OUTER, 2048), dtype=torch.int8)
        other = torch.randint(-100, 100, (2048, 2048), dtype=torch.int8)
        int8 = flops / _shortest(lambda: torch._int_mm(whole, other), 6)
    except (AttributeError, RuntimeError):
        int8 = 0.0
    return Limits(torch.get_num_threads(), bandwidth, rate, int8)


def _lower(times: list[float]) -> float:
    """The lower decile: other programs on the machine make steps longer and never shorter."""
    return sorted(times)[len(times) // 10]


def _shortest(call: Callable[[], object], times: int) -> float:
    call()
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return min(taken)


def table(figures: list[Figures], limits: Limits) -> str:
    """Parts × kinds of work as Markdown: milliseconds, and the limit behind them where there is one."""
    lines = [
        f"{limits.threads} threads: {limits.bytes_per_second / 1e9:.1f} GB/s read, {limits.flops / 1e12:.2f} TFLOP/s"
        f" of matrices, {limits.int8_ops / 1e12:.2f} Top/s of 8-bit integers. Milliseconds, and what the limits allow:",
        "",
        "| part | " + " | ".join(each.work.name for each in figures) + " |",
        "|---|" + "---|" * len(figures),
    ]
    names = [name for name in PARTS if any(name in each.parts for each in figures)]
    names += sorted({name for each in figures for name in each.parts} - set(names))
    for name in names:
        shape = figures[0].shapes.get(name, "")
        cells = [_cell(each.parts.get(name), each.limits.get(name), each.seconds) for each in figures]
        lines.append(f"| {name}{' ' + shape if shape else ''} | " + " | ".join(cells) + " |")
    matmuls = [sum(each.parts.get(name, 0.0) for name in MATMULS) for each in figures]
    below = {
        "**in all**": [f"**{each.seconds * 1e3:.1f}** ({each.limit * 1e3:.1f})" for each in figures],
        "what isn't matmul": [
            f"{100 * (1 - part / each.seconds):.0f} %" for part, each in zip(matmuls, figures, strict=True)
        ],
        "tokens/s": [f"{(each.work.rows or each.work.prompt) / each.seconds:.0f}" for each in figures],
        "busy, preempted": [f"{each.busy:.2f}, {each.preempted:.0f}" for each in figures],
    }
    lines += [f"| {name} | " + " | ".join(cells) + " |" for name, cells in below.items()]
    return "\n".join(lines)


def _cell(seconds: float | None, limit: float | None, whole: float) -> str:
    if seconds is None:
        return ""
    allowed = f" ({limit * 1e3:.1f})" if limit else ""
    return f"{seconds * 1e3:.1f}{allowed}, {100 * seconds / whole:.0f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a model's folder, in the hub's format")
    parser.add_argument("--rows", default="1,8,32", help="how many rows decode, separated by commas")
    parser.add_argument("--length", type=int, default=100, help="tokens behind which each row decodes (default 100)")
    parser.add_argument("--prompts", default="512,1500", help="lengths of prompts, separated by commas; empty for none")
    parser.add_argument("--chunk", type=int, default=512, help="tokens of a prompt that one step reads (default 512)")
    parser.add_argument("--steps", type=int, default=24, help="steps of each kind (default 24; prompts a sixth)")
    parser.add_argument("--threads", type=int, default=0, help="threads that compute (default: torch's own choice)")
    parser.add_argument(
        "--bits", type=float, default=0, help="bits of a weight in memory, for the limits (default: as they are)"
    )
    parser.add_argument(
        "--kernels", default="auto", choices=("auto", "off", *compiled.VARIANTS), help="off: by torch's operators"
    )
    parser.add_argument(
        "--cpu-time", action="store_true", help="seconds of CPU: with --threads 1, where other programs take the cores"
    )
    parser.add_argument("--precision", default="bfloat16", choices=("bfloat16", "float32"), help="default bfloat16")
    parser.add_argument("--unpacked", action="store_true", help="quantized weights of a folder as plain ones")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    compiled.choose(arguments.kernels)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    rows = [int(count) for count in arguments.rows.split(",") if count]
    prompts = [int(count) for count in arguments.prompts.split(",") if count]
    works = [Work(f"{count} row{'s' * (count > 1)}", rows=count, length=arguments.length) for count in rows]
    works += [Work(f"prompt of {count:,}", prompt=count) for count in prompts]
    placement = Placement("cpu", getattr(torch, arguments.precision), keeps_groups=not arguments.unpacked)
    limits = measure_limits(placement.dtype).better(measure_limits(torch.float32))  # which some multiply faster
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    longest = max(arguments.length + 32, *prompts, 64) + 1
    steps = Steps(arguments.folder, max([*rows, 1]), longest, arguments.bits, placement, clock)
    figures: list[Figures] = []
    for work in works:
        count = max(3, arguments.steps // 6) if work.prompt else arguments.steps
        figures.append(steps.measure(work, count, arguments.chunk))
        print(f"{work.name}: {figures[-1].seconds * 1e3:.1f} ms", file=sys.stderr, flush=True)
    limits = limits.better(measure_limits(placement.dtype))
    for each in figures:
        each.limits = least(steps.shape, each.work, arguments.chunk, limits)
    print(table(figures, limits))
    if arguments.json:
        report = {"machine": servers.machine(), "divided_by": steps.how, "limits": asdict(limits),
                  "shape": asdict(steps.shape), "figures": [asdict(each) for each in figures]}  # fmt: skip
        servers.save(arguments.json, report)
        print(json.dumps({each.work.name: round(each.seconds * 1e3, 2) for each in figures}), file=sys.stderr)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
