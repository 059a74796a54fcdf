"""A GGUF file of an embedding model: llama.cpp is told how it pools once its download knows."""

import subprocess
import time
from pathlib import Path
from typing import Any

from ams_common.gguf_embedding import LONGEST_WORD, POOLING_WORD, WORD_FILES
from ams_operator.decide.observed import Observed
from ams_operator.decide.plan import plan
from plan_objects import NOW, SETTINGS, resource

GGUF = "hf://acme/tiny?file=tiny.gguf"
LLAMA = {"name": "llamacpp", "image": "llama:1"}


def engine_of(**spec: Any) -> list[str]:
    """The command of the container `engine`."""
    decision = plan(Observed(resource(GGUF, engine=LLAMA, **spec)), SETTINGS, NOW)
    [pods] = [each["spec"]["template"] for each in decision.apply if each["kind"] == "Deployment"]
    [engine] = [each for each in pods["spec"]["containers"] if each["name"] == "engine"]
    return list(engine["command"])


def test_the_engine_starts_with_the_pooling_that_the_download_found(tmp_path: Path) -> None:
    """The command as the kubelet would run it, with another program in the place of the engine's."""
    command = engine_of(model={"family": "embedding"})
    shell, flag, script, name, *words = (word.replace("$$", "$") for word in command)
    assert words[words.index("--pooling") + 1] == POOLING_WORD
    assert words[words.index("--ctx-size") + 1] == LONGEST_WORD
    (tmp_path / WORD_FILES[POOLING_WORD]).write_text("last")
    (tmp_path / WORD_FILES[LONGEST_WORD]).write_text("512")
    script = script.replace("/run/ams", str(tmp_path)).replace("tee -a", "cat >>")
    show = ["/bin/sh", "-c", 'for each do echo "[$each]"; done', "engine"]
    subprocess.run([shell, flag, script, name, *show, *words], check=True, timeout=30)
    log, deadline = tmp_path / "engine.log", time.monotonic() + 20
    while not log.exists() or len(shown := log.read_text().splitlines()) < len(words):  # what copies it may be later
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert shown[shown.index("[--pooling]") + 1] == "[last]"
    assert [shown[shown.index(f"[{name}]") + 1] for name in ("--ctx-size", "--ubatch-size")] == ["[512]", "[512]"]
    assert len(shown) == len(words)


def test_of_a_model_that_writes_nobody_is_told() -> None:
    assert POOLING_WORD not in " ".join(engine_of())
