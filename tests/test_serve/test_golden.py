"""Golden prompts: a version of a model that doesn't answer them as wished is never asked by anybody else."""

import json
from pathlib import Path
from typing import Any

import pytest
from ams_common.pod_settings import ServeSettings
from ams_common.resource.spec import GoldenPrompt
from ams_pod.serve.golden import judge, parse_golden_prompts
from ams_pod.serve.pod import ModelPod
from test_serve.echo_pod import EchoEngine, capabilities_of, info_of
from test_serve.live_pods import LiveForkServer, child_pod


def golden(*prompts: dict[str, Any]) -> str:
    return json.dumps(prompts)


@pytest.mark.parametrize(
    ("check", "answer", "complaint"),
    [
        ({"contains": "Paris"}, "It is Paris.", None),
        ({"contains": "Paris"}, "Rome\n again", "with 'Rome again', which doesn't contain 'Paris'"),
        ({"regex": "(?i)^paris"}, "PARIS!", None),
        ({"regex": "^4$"}, "44", "with '44', which doesn't match '^4$'"),
        ({"contains": "x"}, "a" * 300, f"with '{'a' * 200}…', which doesn't contain 'x'"),
        ({"contains": "x"}, "", "with '', which doesn't contain 'x'"),
    ],
)
def test_answers_are_judged(check: dict[str, str], answer: str, complaint: str | None) -> None:
    assert judge(GoldenPrompt(prompt="?", **check), answer) == complaint


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "array"),
        ('[{"contains": "a"}]', "`prompt`"),
        ('[{"prompt": "a"}]', "either contains or regex"),
        ('[{"prompt": "a", "regex": "("}]', "unterminated"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_golden_prompts(text)


def test_a_pod_is_ready_once_its_golden_prompts_are_answered(forks: LiveForkServer, folder: Path, llama: Path) -> None:
    asked = {"prompt": "hello", "temperature": 0, "max_new_tokens": 8}
    with child_pod(forks, folder, llama, "unchecked") as pod:
        answer = pod.client.post("/generate", asked).json()["response"]
    prompts = golden({"prompt": "hello", "contains": answer[:3]}, {"prompt": "2+2", "regex": "(?s)^.*$"})
    with child_pod(forks, folder, llama, "checked", golden_prompts=prompts, max_new_tokens=64) as pod:
        assert pod.client.post("/generate", asked).json()["response"] == answer
        assert "checking took" in pod.log.read_text()
        assert pod.client.get("/load").json()["in_flight"] == 0


@pytest.mark.parametrize(
    ("prompt", "settings", "says"),
    [
        ({"prompt": "2+2", "contains": "never said"}, {}, "which doesn't contain 'never said'."),
        ({"prompt": "2+2", "regex": "^never said$"}, {}, "which doesn't match '^never said$'."),
        (
            {"prompt": "2 " * 200, "contains": "4"},
            {"context_tokens": 64},
            "exceeds the context window.",
        ),
    ],
)
def test_a_pod_that_fails_one_is_never_ready_and_says_why(
    forks: LiveForkServer, llama: Path, tmp_path: Path, prompt: Any, settings: Any, says: str
) -> None:
    reason = tmp_path / "termination-log"
    pod, number = forks.start_pod(
        tmp_path,
        llama,
        "failing",
        golden_prompts=golden(prompt),
        termination_log=reason,
        **{"max_new_tokens": 40} | settings,
    )
    ended = forks.wait_event("exited", number)
    assert (ended["code"], ended["signal"]) == (1, None), pod.log.read_text()
    failure = json.loads(reason.read_text())
    assert failure["reason"] == "GoldenPromptFailed"
    assert failure["message"].startswith("The golden prompt '2")
    assert failure["message"].endswith(says)
    assert " is ready: " not in pod.log.read_text()


async def silent_pod(folder: Path, **prompt: Any) -> tuple[ModelPod, EchoEngine]:
    """A pod whose model never answers, while its golden prompt is asked."""
    settings = ServeSettings(
        name="silent",
        source=f"file://{folder}",
        temp_dir=str(folder),
        golden_prompts=golden({"prompt": "2+2"} | prompt),
    )
    engine = EchoEngine(info_of("text"), capabilities_of("text"), lambda events: None, hold=True)
    pod = ModelPod(settings, folder, lambda *_: engine)
    pod.start()
    await engine.submitted.wait()
    return pod, engine


async def test_a_golden_prompt_has_its_time(tmp_path: Path) -> None:
    pod, engine = await silent_pod(tmp_path, contains="4", maxSeconds=1)
    assert pod.progress.phase == "checking"
    failure = await pod.failure
    assert (failure.reason, failure.message) == (
        "GoldenPromptFailed",
        "The golden prompt '2+2' was not answered within 1 s.",
    )
    assert engine.tickets[0].cancelled
    assert pod.engine is None
    await pod.drain()
    assert engine._stopped.is_set()


async def test_a_pod_that_is_told_to_end_meanwhile_ends(tmp_path: Path) -> None:
    pod, engine = await silent_pod(tmp_path, contains="4")
    await pod.drain()
    assert engine._stopped.is_set()
    assert engine.tickets[0].cancelled
    assert pod.engine is None
    assert not pod.failure.done()
