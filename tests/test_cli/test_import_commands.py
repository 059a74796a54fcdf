"""`ams import`: what a shell's script runs in the end, and secrets that commands and variables hold."""

import pytest
from ams_cli.importing.credentials import is_secret, masked, without_secrets
from ams_cli.importing.results import Draft, NotImported
from ams_cli.importing.shell import started


@pytest.mark.parametrize(
    ("script", "words", "variables", "before"),
    [
        ("vllm serve a/b", ["vllm", "serve", "a/b"], {}, ()),
        ("pip install x && export A='b c'; vllm serve --x \"$A\"",
         ["vllm", "serve", "--x", "b c"], {"A": "b c"}, ("pip",)),
        ("#!/bin/bash\nset -e\n# no\nexec vllm serve \\\n  a/b # yes", ["vllm", "serve", "a/b"], {}, ()),
        ("vllm serve $M ${P:-80} '$M' > /log 2>&1", ["vllm", "serve", "a/b", "80", "$M"], {}, ()),
        ("source /opt/x && ray start; vllm serve a & wait", ["vllm", "serve", "a"], {}, ("source /opt/x", "ray")),
        ("echo $(date) | cat; vllm serve a", ["vllm", "serve", "a"], {}, ()),
        ("X=$M-1 && vllm serve $X", ["vllm", "serve", "a/b-1"], {"X": "a/b-1"}, ()),
    ],
)  # fmt: skip
def test_scripts(script: str, words: list[str], variables: dict[str, str], before: tuple[str, ...]) -> None:
    runs = started(["bash", "-c", script], {"M": "a/b"})
    assert [runs.program, *runs.arguments] == words
    assert dict(runs.variables) == variables
    assert runs.by == before


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("vllm serve a | tee log", "pipes"),
        ("vllm serve $(cat name)", "other commands"),
        ("vllm serve `cat name`", "pipes"),
        ("vllm serve \"`cat name`\"", "other commands"),
        ("vllm serve $NOWHERE", "the variable NOWHERE, whose value isn't told"),
        ("vllm serve $1", "other commands or parameters"),
        ("if true; then vllm serve a; fi", "with 'if'"),
        ("vllm serve 'a", "can't be split"),
        ('vllm serve "a', "can't be split"),
        (";" * 130_000, "cmd is empty"),
        ("a;" * 2_000, "more than 1000 commands"),
        ("A=" + "x" * 10_000 + ";vllm " + "$A " * 40, "once its variables are written out"),
        ("x" * 140_000, "more than 131,072 characters"),
    ],
)  # fmt: skip
def test_scripts_that_only_a_shell_can_read(script: str, why: str) -> None:
    with pytest.raises(NotImported, match=why.replace("(", "\\(")):
        started(["bash", "-c", script])


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("HF_TOKEN", "hf_abc", True), ("OPENAI_API_KEY", "x", True), ("DB_PASSWORD", "x", True),
        ("A", "hf_" + "a" * 30, True),
        ("URL", "https://me:pw@host/x", True), ("HF_TOKEN", "", False), ("HF_TOKEN", "$(OTHER)", False),
        ("TOKENIZERS_PARALLELISM", "false", False), ("MAX_TOTAL_TOKENS", "4096", False),
        ("HF_TOKEN_PATH", "/x", False),
        ("MODEL", "hf_transfer/x", False),
    ],
)  # fmt: skip
def test_which_variables_are_secrets(name: str, value: str, secret: bool) -> None:
    assert is_secret(name, value) is secret


def test_secrets_leave_a_draft_and_are_told() -> None:
    token = "hf_" + "a" * 30
    draft = Draft("m", "m", metadata={"annotations": {"note": f"with {token}"}})
    draft.spec = {
        "env": [{"name": "HF_TOKEN", "value": "hunter2"}],
        "engine": {
            "env": [{"name": "A_KEY", "value": "hunter2"}, {"name": "B", "value": "1"}, {"name": "C", "valueFrom": {}}],
            "args": ["--x", "1", "--admin-api-key", "hunter2", "--header=Bearer sk-" + "a" * 30, "--api-key", "$(KEY)"],
        },
        "podAnnotations": {"x": token},
    }
    without_secrets(draft)
    assert draft.spec == {
        "engine": {
            "env": [{"name": "B", "value": "1"}, {"name": "C", "valueFrom": {}}],
            "args": ["--x", "1", "--api-key", "$(KEY)"],
        },
        "podAnnotations": {"x": "REMOVED"},
    }  # fmt: skip
    assert draft.metadata == {"annotations": {"note": "with REMOVED"}}
    told = " ".join(f"{note.where}: {note.text}" for note in draft.notes)
    assert "hunter2" not in told
    assert token not in told
    for said in (
        "variable HF_TOKEN",
        "variable A_KEY",
        "argument --admin-api-key",
        "argument --header",
        "tokenSecretRef",
    ):
        assert said in told
    assert all(note.lost for note in draft.notes)


def test_tokens_are_masked_in_sentences() -> None:
    assert masked(f"curl -H {'hf_' + 'b' * 30} https://me:pw@host/") == "curl -H ... https://...@host/"
    assert masked("servingEngineSpec.modelSpec[0].hf_token: --hf_overrides") == (
        "servingEngineSpec.modelSpec[0].hf_token: --hf_overrides"
    )
