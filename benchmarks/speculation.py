"""What speculation by prompt lookup is worth: the engine's decoding with it and without, where text repeats and not.

    python benchmarks/speculation.py --model FOLDER --json benchmarks/results/speculation.json

Without HTTP, on one engine: rounds with it and without alternate, and ratios are medians of the rounds'. Only decoding
is timed, from when all prompts are read. The tasks: "edit" renames a person for the second time, in a text of 150 words
that the prompt holds twice; "copy" repeats a text of the prompt; "answer" is a greedy answer to a question, in which a
small model comes to repeat itself; "drawn" is drawn at temperature 0.8, and repeats little.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import engine_servers as servers
from ams_common.pod_settings import ServeSettings
from ams_pod.engines.builtin.loading import load_engine
from ams_pod.engines.port import Prepared, Sampling, TokenEvent

NEW = 160
TEXT = (
    "The old lighthouse stood at the edge of the cliff, where the wind never rested. Every evening, {name} climbed its"
    " ninety-three steps with a can of oil and a small brass bell. Sailors said that they could hear the bell from six"
    " miles away when the fog was thick. She had kept the light for thirty years, and in all that time only one ship"
    " had been lost. Her brother painted the railings red each spring, and the gulls covered them in white each summer."
    " On Sundays the baker's boy brought bread, two candles, and news from the village. When the storm of October came,"
    " the lamp went out for eleven minutes. {name} lit it again with her own coat wrapped around the broken glass. In"
    " the morning, four fishermen walked up the hill to thank her, and {name} gave each of them a cup of hot tea."
)
NAMES = (("Martha", "Clara", "Emma"), ("Anna", "Laura", "Rose"), ("Helen", "Maria", "Sara"), ("Jane", "Lucy", "Mary"))
QUESTIONS = ("rivers", "the moon", "bread", "old ships")
TASKS = ("edit", "copy", "answer", "drawn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--streams", default="1,4")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    engine = Decoding(arguments.model, arguments.threads)
    report: dict[str, Any] = {"machine": servers.machine(), "rounds": arguments.rounds, "tasks": {}}
    for streams in map(int, arguments.streams.split(",")):
        for task in TASKS:
            found = engine.compare(task, streams, arguments.rounds)
            report["tasks"][f"{task} {streams}"] = found
            print(
                f"{task:7} {streams} streams: {found['off']:7.1f} tokens/s without, {found['on']:7.1f} with,"
                f" {found['ratio']:5.2f} × ({found['least']:.2f} to {found['most']:.2f});"
                f" {found['accepted']:.0%} of {found['drafted']:.0f} drafted tokens right, {found['same']:.0%} same",
                flush=True,
            )
    if arguments.json:
        servers.save(arguments.json, report)


class Decoding:
    """An engine of four rows, whose speculation is switched between requests."""

    def __init__(self, folder: Path, threads: int) -> None:
        settings = ServeSettings(
            name="m", source="file:///", concurrent_requests=4, context_tokens=1024, threads=threads
        )
        self._engine: Any = load_engine(folder, settings, _publish, lambda phase, percent: None)

    def compare(self, task: str, streams: int, rounds: int) -> dict[str, float]:
        """Tokens a second without and with, the ratio of each round, and what became of drafts."""
        speeds: dict[bool, list[float]] = {False: [], True: []}
        answers: dict[bool, list[list[int]]] = {}
        counters = self._engine.counters
        for on in (False, True):
            self._decode(task, streams, on=on)  # the first steps of a width make its kernels, and tell their times
        drafted, accepted = counters.drafted_tokens, counters.accepted_tokens
        for number in range(rounds):
            for on in (False, True) if number % 2 else (True, False):
                speed, answers[on] = self._decode(task, streams, on=on)
                speeds[on].append(speed)
        drafted, accepted = counters.drafted_tokens - drafted, counters.accepted_tokens - accepted
        ratios = [on / off for off, on in zip(speeds[False], speeds[True], strict=True)]
        tokens = [[token for answer in answers[on] for token in answer] for on in (False, True)]
        return {
            "off": statistics.median(speeds[False]),
            "on": statistics.median(speeds[True]),
            "ratio": statistics.median(ratios),
            "least": min(ratios),
            "most": max(ratios),
            "drafted": drafted / rounds,
            "accepted": accepted / max(1, drafted),
            "same": sum(one == other for one, other in zip(*tokens, strict=True)) / len(tokens[0]),
        }

    def _decode(self, task: str, streams: int, *, on: bool) -> tuple[float, list[list[int]]]:
        """Tokens a second once all prompts are read, and the answers."""
        core = self._engine.core
        core._speculation._on = on
        answers: list[list[int]] = [[] for _ in range(streams)]
        for index, answer in enumerate(answers):
            sampling = Sampling(NEW, ignore_eos=True)
            if task == "drawn":
                sampling = replace(sampling, temperature=0.8, top_p=0.95, seed=index)
            self._engine.submit(self._prompt(task, index), sampling, _sink(answer))
        while not all(answers):
            core.step()
        made, began = sum(map(len, answers)), time.perf_counter()
        while core.step():
            pass
        return (sum(map(len, answers)) - made) / (time.perf_counter() - began), answers

    def _prompt(self, task: str, index: int) -> Prepared:
        first, second, third = NAMES[index]
        if task == "edit":
            versions = f"First version:\n{TEXT.format(name=first)}\n\n"
            versions += f"Second version ({first} is called {second} now):\n{TEXT.format(name=second)}\n\n"
            edit: Prepared = self._engine.prepare_text(f"{versions}Third version ({second} is called {third} now):\n")
            return edit
        if task == "copy":
            ask = f"Repeat the following text exactly:\n\n{TEXT.format(name=first)}"
        else:
            ask = f"Tell me something about {QUESTIONS[index]}."
        chat: Prepared = self._engine.prepare_chat([{"role": "user", "content": ask}])
        return chat


def _publish(events: Sequence[TokenEvent]) -> None:
    for event in events:
        event.ticket.sink(event)


def _sink(answer: list[int]) -> Any:
    return lambda event: answer.append(event.token)


if __name__ == "__main__":
    main()
