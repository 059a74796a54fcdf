"""What choosing tokens costs: a whole step of the engine with sampled and structured answers, against a greedy one.

    python benchmarks/sampling.py --model FOLDER --json benchmarks/results/sampling.json

Without HTTP: a step of N rows that all decode is timed, in interleaved rounds on one engine. What is compared are
lower deciles, as other programs on the machine make steps longer and never shorter.
"one hot row" is one at temperature 2 with top_p 0.95 among greedy ones. "structured" rows are greedy and held to a JSON
Schema. Then `sample()` alone, on random logits of a vocabulary of 152k.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import engine_servers as servers
import torch
from ams_common.pod_settings import ServeSettings
from ams_pod.engines.builtin.loading import load_engine
from ams_pod.engines.builtin.model.sampling import RowSampler, sample
from ams_pod.engines.port import Constraint, Sampling

DEFAULT = {"temperature": 0.7, "top_p": 0.9}
HOT = {"temperature": 2.0, "top_p": 0.95}
SCHEMA = {
    "type": "array",
    "minItems": 1000,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 40},
            "age": {"type": "integer"},
            "kind": {"enum": ["a", "b"]},
        },
        "required": ["name", "age", "kind"],
        "additionalProperties": False,
    },
}
KINDS = ("greedy", "T=0.7 top_p=0.9", "T=1", "one hot row", "structured", "structured, sampled", "penalties")
LARGE = 151_936


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rows", default="8,32")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    counts = [int(count) for count in arguments.rows.split(",")]
    report: dict[str, Any] = {"machine": servers.machine(), "steps": {}, "alone": {}}
    steps = Steps(arguments.model, max(counts), arguments.threads)
    for count in counts:
        taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for _ in range(arguments.rounds):
            for kind in KINDS:
                taken[kind] += steps.measure(kind, count, arguments.steps)
        report["steps"][count] = {kind: _lower(seconds) for kind, seconds in taken.items()}
        greedy = report["steps"][count]["greedy"]
        for kind, seconds in report["steps"][count].items():
            print(
                f"{count:3} rows {kind:20} {seconds * 1e3:7.2f} ms a step, {seconds / greedy:5.3f} × greedy", flush=True
            )
    for count in counts:
        report["alone"][count] = alone(count)
        for kind, seconds in report["alone"][count].items():
            print(f"{count:3} rows of {LARGE} logits {kind:20} {seconds * 1e3:7.2f} ms", flush=True)
    if arguments.json:
        servers.save(arguments.json, report)


class Steps:
    """An engine whose steps are timed."""

    def __init__(self, folder: Path, rows: int, threads: int) -> None:
        settings = ServeSettings(
            name="m", source="file:///", concurrent_requests=rows, context_tokens=1024, threads=threads
        )
        self._engine: Any = load_engine(folder, settings, lambda events: None, lambda phase, percent: None)
        self._constraint = self._engine.prepare_constraint(Constraint("json-schema", json.dumps(SCHEMA)))

    def measure(self, kind: str, count: int, steps: int) -> list[float]:
        """Seconds of each of so many steps that decode `count` rows."""
        tickets = [
            self._engine.submit(
                self._engine.prepare_chat([{"role": "user", "content": f"Tell me something about {index}."}]),
                self._sampling(kind, index),
                lambda event: None,
            )
            for index in range(count)
        ]
        core, seconds = self._engine.core, []
        while core.occupancy().running < count or core.occupancy().waiting:
            core.step()
        core.step()
        for _ in range(steps):
            started = time.perf_counter()
            core.step()
            seconds.append(time.perf_counter() - started)
        for ticket in tickets:
            core.cancel(ticket)
        while core.step():
            pass
        return seconds

    def _sampling(self, kind: str, index: int) -> Sampling:
        own: dict[str, Any] = {}
        match kind:
            case "T=0.7 top_p=0.9":
                own = DEFAULT
            case "T=1":
                own = {"temperature": 1.0}
            case "one hot row":
                own = HOT if index == 0 else {}
            case "structured":
                own = {"constraint": self._constraint}
            case "structured, sampled":
                own = {**DEFAULT, "constraint": self._constraint}
            case "penalties":
                own = {**DEFAULT, "repetition_penalty": 1.1, "presence_penalty": 0.5}
        return Sampling(500, ignore_eos=True, seed=index, **own)


def alone(count: int) -> dict[str, float]:
    """Seconds of `sample()` by what is asked of the rows, lower deciles of 15."""
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(count, LARGE, generator=generator) * 2.5).bfloat16()
    logits[:, :50] += 6
    found = {}
    for name, hot, others in _asked():
        rows = [RowSampler(Sampling(1, seed=index, **(hot if index == 0 else others)), ()) for index in range(count)]
        seconds = []
        for _ in range(16):
            started = time.perf_counter()
            sample(logits, rows)
            seconds.append(time.perf_counter() - started)
        found[name] = _lower(seconds[1:])
    return found


def _lower(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=10)[0]


def _asked() -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    few = {"temperature": 0.7, "top_p": 0.8, "top_k": 20}
    return [
        ("greedy", {}, {}),
        ("T=0.7 top_p=0.9", DEFAULT, DEFAULT),
        ("T=0.7 top_p=0.8 top_k=20", few, few),
        ("one hot row", HOT, {}),
        ("all hot", HOT, HOT),
    ]


if __name__ == "__main__":
    main()
