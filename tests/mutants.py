"""Whether tests notice what they should: small faults, put one at a time into the modules that decide.

    python tests/mutants.py COSMIC_RAY [--sample N] [--seed S] [--only PART]

cosmic-ray changes operators, numbers and conditions of a module in a copy of the checkout, and its own tests run after
each change. COSMIC_RAY is the folder with cosmic-ray's programs, `make mutants` makes one. A change that no test
notices is printed. The exit status is 1 where fewer than nine of ten were noticed. `--sample` takes that many changes
of each module, the same ones for the same seed; 0 takes all, which needs hours.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
NOTICED = 0.9
SECONDS = 120  # of one run of a module's tests
PATHS = ("common", "modelpod", "gateway", "operator", "cli")
SCHEDULER = "modelpod/ams_pod/engines/builtin/scheduler"

# Each module that decides, with the tests that are its own.
MODULES = {
    "common/ams_common/backoff.py": "tests/test_common/test_backoff.py",
    "common/ams_common/fit.py": "tests/test_common/test_fit.py",
    "common/ams_common/hub_files.py": "tests/test_common/test_hub_files.py",
    "common/ams_common/scaling.py": "tests/test_common/test_scaling.py tests/test_common/test_scaling_table.py",
    "cli/ams_cli/eviction.py": "tests/test_cli/test_eviction.py",
    "cli/ams_cli/process_state.py": "tests/test_cli/test_process_state.py",
    "common/ams_common/room.py": "tests/test_common/test_room.py",
    "gateway/ams_gateway/proxy/decisions.py": "tests/test_gateway/test_pure.py",
    "modelpod/ams_pod/download/backoff.py": "tests/test_pod/test_download_words.py",
    "modelpod/ams_pod/download/plan.py": "tests/test_pod/test_download_plan.py",
    f"{SCHEDULER}/admission.py": "tests/test_pod/test_scheduler_state.py",
    f"{SCHEDULER}/ladder.py": "tests/test_pod/test_ladder.py",
    f"{SCHEDULER}/schedule.py": ("tests/test_pod/test_decisions.py tests/test_pod/test_scheduler_state.py"),
    f"{SCHEDULER}/slots.py": "tests/test_pod/test_scheduler_state.py",
    "operator/ams_operator/decide/plan.py": " ".join(
        f"tests/test_operator/test_{name}.py"
        for name in ("plan", "plan_parts", "children", "health", "endings", "pulling", "renewal", "preflight")
    ),
    "operator/ams_operator/decide/renewal.py": "tests/test_operator/test_renewal.py",
    "operator/ams_operator/decide/replicas.py": "tests/test_operator/test_replicas.py",
    "operator/ams_operator/decide/scaling.py": "tests/test_operator/test_scaling.py",
}

# `|` is nearly always one of annotations here; the others change nothing that a test of behaviour could see.
LEFT_OUT = (
    r"core/ReplaceBinaryOperator_BitOr_.*",
    r"core/RemoveDecorator",
    r"core/ExceptionReplacer",
    r"core/VariableInserter",
    r"core/VariableReplacer",
)
UNTOUCHED = ("@dataclass",)  # lines: slots and frozen are no behaviour


@dataclass(frozen=True)
class Result:
    """How many changes of a module were noticed, and the diffs of those that weren't."""

    module: str
    noticed: int
    survived: list[str]


def main() -> int:
    parser = argparse.ArgumentParser(description="Whether the tests of deciding modules notice small faults.")
    parser.add_argument("programs", type=Path)
    parser.add_argument("--sample", type=int, default=25)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="modules with this in their path")
    options = parser.parse_args()
    results = []
    with copied() as tree:
        for module, tests in MODULES.items():
            if options.only in module:
                results.append(examine(module, tests, tree, options))
                report(results[-1])
    return conclude(results)


@contextlib.contextmanager
def copied() -> Iterator[Path]:
    """A copy of what is checked out, as it stands: the changes never touch the files that somebody edits."""
    with tempfile.TemporaryDirectory(prefix="ams-mutants-") as name:
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=ROOT, capture_output=True, check=True,
        ).stdout.decode()  # fmt: skip
        for file in filter(None, listed.split("\0")):
            if (ROOT / file).is_file() and not file.startswith("wheels/"):
                (Path(name) / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / file, Path(name) / file)
        yield Path(name)


def examine(module: str, tests: str, tree: Path, options: argparse.Namespace) -> Result:
    session, config = tree / "session.sqlite", tree / "cosmic-ray.toml"
    session.unlink(missing_ok=True)
    command = f"{sys.executable} -m pytest -q -x -p no:cacheprovider --timeout {SECONDS // 2} {tests}"
    config.write_text(
        f'[cosmic-ray]\nmodule-path = "{module}"\ntimeout = {SECONDS}\nexcluded-modules = []\n'
        f'test-command = "{command}"\n[cosmic-ray.distributor]\nname = "local"\n'
        f"[cosmic-ray.filters.operators-filter]\nexclude-operators = {json.dumps(LEFT_OUT)}\n"
    )

    def run(program: str, *arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": ":".join(str(tree / path) for path in PATHS)}
        done = subprocess.run(
            [options.programs / program, *arguments], cwd=tree, env=environment, text=True, capture_output=True
        )
        if done.returncode != 0:
            raise SystemExit(f"{program} {' '.join(arguments)}: {done.stdout[-3000:]}{done.stderr[-3000:]}")
        return done.stdout

    run("cosmic-ray", "baseline", str(config))  # without any change all tests pass
    run("cosmic-ray", "init", str(config), str(session))
    run("cr-filter-operators", str(session), str(config))
    keep_some(session, options.sample, options.seed)
    run("cosmic-ray", "exec", str(config), str(session))
    noticed, survived = 0, []
    for line in run("cosmic-ray", "dump", str(session)).splitlines():
        _, outcome = json.loads(line)
        if outcome is None or outcome["worker_outcome"] == "skipped":
            continue
        if outcome["test_outcome"] == "survived":
            survived.append(outcome["diff"] or "")
        else:
            noticed += 1
    return Result(module, noticed, survived)


def keep_some(session: Path, sample: int, seed: int) -> None:
    """Leave `sample` of the changes that the filter left, chosen by the seed."""
    with contextlib.closing(sqlite3.connect(session)) as database, database:
        done = {row[0] for row in database.execute("SELECT job_id FROM work_results")}
        jobs = sorted(
            (file, operator, occurrence, job)
            for file, operator, occurrence, job, row in database.execute(
                "SELECT module_path, operator_name, occurrence, job_id, start_pos_row FROM mutation_specs"
            )
            if job not in done and not (session.parent / file).read_text().splitlines()[row - 1].startswith(UNTOUCHED)
        )
        chosen = {job for *_, job in jobs}
        for (job,) in list(database.execute("SELECT job_id FROM mutation_specs")):
            if job not in chosen and job not in done:
                drop(database, job)
        if sample and len(jobs) > sample:
            kept = set(random.Random(seed).sample(jobs, sample))
            for job in jobs:
                if job not in kept:
                    drop(database, job[3])


def drop(database: sqlite3.Connection, job: str) -> None:
    for table in ("mutation_specs", "work_items"):
        database.execute(f"DELETE FROM {table} WHERE job_id = ?", (job,))


def report(result: Result) -> None:
    print(f"{result.module}: {result.noticed} of {result.noticed + len(result.survived)}", flush=True)
    for diff in result.survived:
        changed = [line for line in diff.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
        print("    " + "\n    ".join(changed), flush=True)


def conclude(results: list[Result]) -> int:
    noticed = sum(result.noticed for result in results)
    total = noticed + sum(len(result.survived) for result in results)
    print(f"noticed: {noticed} of {total} ({100 * noticed / max(1, total):.0f} %)")
    return 0 if total and noticed >= NOTICED * total else 1


if __name__ == "__main__":
    sys.exit(main())
