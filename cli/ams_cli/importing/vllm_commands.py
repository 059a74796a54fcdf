"""The command of a container that runs vLLM."""

from pathlib import PurePosixPath

from ams_cli.importing.llama_swap_commands import as_variables
from ams_cli.importing.reading import Section
from ams_cli.importing.results import Draft
from ams_cli.importing.shell import started

MODELS = "/mnt/models"  # where KServe puts weights


def arguments_of(draft: Draft, container: Section) -> list[str]:
    """vLLM's arguments, without the program; a model that comes first is the option `--model`.

    Variables that a shell sets before it are set, what else starts it is told. NotImported for scripts.
    """
    command, arguments = container.texts("command"), container.texts("args")
    if not command:
        return _of_serve(arguments)
    runs = started([*command, *arguments])
    for each in runs.by:
        draft.lose(f"{container.at('command')} {each}", "how the program is started has no place here")
    draft.set("engine.env", [*(draft.get("engine.env") or []), *as_variables(dict(runs.variables))])
    words = list(runs.arguments)
    if PurePosixPath(runs.program).name.startswith("python") and words[:1] == ["-m"]:
        words = words[2:]
    return _of_serve(words)


def _of_serve(words: list[str]) -> list[str]:
    words = words[1:] if words[:1] == ["vllm"] else words
    words = words[1:] if words[:1] == ["serve"] else words
    if words and not words[0].startswith("-"):
        words = ["--model", *words]
    kept: list[str] = []
    for index, word in enumerate(words):
        before = words[index - 1] if index else ""
        if before == "--model" and word.rstrip("/") == MODELS:
            kept.pop()
        elif word.rstrip("/") != f"--model={MODELS}":
            kept.append(word)
    return kept
