"""`ams status` and `ams chat` against a running gateway."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from ams_cli.chat import Conversation, attachment, talk
from ams_cli.gateway_client import GatewayError, at_url, error_sentence
from ams_cli.main import main
from ams_cli.status import gateway_status, resource_details, resources_table
from ams_kube.views import ResourceView
from certificates import Authority
from msgspec import convert
from test_cli.up_process import up


async def command(*arguments: str, given: str = "") -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ams_cli.main", *arguments,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate(given.encode())
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_status_of_a_running_ams_up(tmp_path: Path) -> None:
    async with up(tmp_path) as server:
        await server.announced()
        code, out, _ = await command("status", "--url", server.url)
        assert code == 0
        assert [line.split()[0] for line in out.splitlines()] == ["MODEL", "m"]
        code, out, _ = await command("status", "m", "--url", server.url)
        assert (code, "state:" in out) == (0, True)
        code, _, err = await command("status", "nope", "--url", server.url)
        assert (code, err) == (1, "ams: no model 'nope'; available: m\n")
        code, _, err = await command("chat", "nope", "--url", server.url, given="hi")
        assert (code, "No such model: nope." in err) == (1, True)
        assert await server.interrupt() == 0


async def test_status_over_https(tmp_path: Path) -> None:
    authority = Authority()
    cert, key = authority.pair().write(tmp_path)
    ca, mine = tmp_path / "ca.pem", authority.pair("ann").write(tmp_path, "ann")
    ca.write_bytes(authority.pem)
    given = ("--tls-cert", str(cert), "--tls-key", str(key), "--tls-client-ca", str(ca))
    async with up(tmp_path, *given) as server:
        await server.announced()
        assert server.url.startswith("https://127.0.0.1:")
        shown = ("--client-cert", str(mine[0]), "--client-key", str(mine[1]))
        code, out, _ = await command("status", "--url", server.url, "--ca-file", str(ca), *shown)
        assert (code, "m" in out) == (0, True)
        code, _, err = await command("status", "--url", server.url)
        assert (code, "its certificate isn't trusted" in err, "--ca-file" in err) == (1, True, True)
        code, _, err = await command("status", "--url", server.url, "--ca-file", str(key))
        assert (code, "no such certificates in PEM" in err) == (2, True)
        code, _, err = await command("status", "--ca-file", str(ca))
        assert (code, "https:// URL" in err) == (2, True)
        assert await server.interrupt() == 0


async def test_up_with_a_certificate_that_is_not_there(tmp_path: Path) -> None:
    async with up(tmp_path, "--tls-cert", str(tmp_path / "none")) as server:
        assert await server.ended() == 2
        assert server.lines == [f"ams: --tls-cert='{tmp_path / 'none'}': there is no such file"]


async def test_nobody_there(unused_tcp_port: int) -> None:
    code, _, err = await command("status", "--url", f"http://127.0.0.1:{unused_tcp_port}")
    assert code == 1
    assert "doesn't answer" in err
    assert "is `ams up` running?" in err


class FakeAnswer:
    def __init__(self, status: int, *lines: bytes) -> None:
        self.status = status
        self.headers: dict[str, str] = {}
        self._lines = lines

    @property
    def content(self) -> "FakeAnswer":
        return self

    async def __aiter__(self):  # type: ignore[no-untyped-def]
        for line in self._lines:
            yield line

    async def read(self) -> bytes:
        return b"".join(self._lines)

    def close(self) -> None:
        pass


class FakeGateway:
    where = "http://fake"

    def __init__(self, *answers: FakeAnswer) -> None:
        self._answers = list(answers)
        self.asked: list[dict] = []  # type: ignore[type-arg]

    async def open(self, method: str, path: str, body=None) -> FakeAnswer:  # type: ignore[no-untyped-def]
        self.asked.append(body)
        return self._answers.pop(0)


STREAM = (
    b": loading 40 %\n",
    b"\n",
    b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n',
    b'data: {"choices":[{"delta":{"reasoning_content":"hm"}}]}\n',
    b'data: {"choices":[{"delta":{"content":"Par"}}]}\n',
    b'data: {"choices":[{"delta":{"content":"is"}}]}\n',
    b"data: [DONE]\n",
)


async def test_a_conversation_streams_remembers_and_shows_progress() -> None:
    gateway = FakeGateway(FakeAnswer(200, *STREAM), FakeAnswer(200, *STREAM))
    conversation = Conversation(gateway, "m", "be brief")
    told: list[str] = []
    assert [piece async for piece in conversation.ask("capital?", [], told.append)] == ["Par", "is"]
    assert told == ["loading 40 %"]
    assert [piece async for piece in conversation.ask("sure?", [], told.append)] == ["Par", "is"]
    assert gateway.asked[1]["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "capital?"},
        {"role": "assistant", "content": "Paris"},
        {"role": "user", "content": "sure?"},
    ]


@pytest.mark.parametrize(
    "answer",
    [
        FakeAnswer(503, b'{"error": {"message": "m is suspended.", "code": "suspended"}}'),
        FakeAnswer(200, b'data: {"error": {"message": "m is suspended.", "code": "suspended"}}\n'),
    ],
)
async def test_errors_are_told_and_forgotten(answer: FakeAnswer) -> None:
    gateway = FakeGateway(answer, FakeAnswer(200, *STREAM))
    conversation = Conversation(gateway, "m")
    with pytest.raises(GatewayError, match=r"m is suspended\."):
        async for _ in conversation.ask("x", [], lambda words: None):
            pass
    assert "".join([piece async for piece in conversation.ask("y", [], lambda words: None)]) == "Paris"
    assert len(gateway.asked[1]["messages"]) == 1


async def test_talking_with_attachments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(b"PNG")
    gateway = FakeGateway(FakeAnswer(200, *STREAM))
    lines = iter([f"/image {picture}", "/image missing.png", "/dance", "", "what is it?"])

    def read() -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    await talk(Conversation(gateway, "m"), read, [])
    shown = capsys.readouterr().out
    assert "Paris" in shown
    assert "missing.png: No such file" in shown
    assert "/dance is not a command" in shown
    content = gateway.asked[0]["messages"][0]["content"]
    assert content[0] == {"type": "image_url", "image_url": {"url": "data:image/png;base64,UE5H"}}
    assert content[1] == {"type": "text", "text": "what is it?"}


def test_attachments_of_each_kind(tmp_path: Path) -> None:
    file = tmp_path / "x.wav"
    file.write_bytes(b"RIFF")
    assert attachment("audio", str(file)) == {
        "type": "input_audio",
        "input_audio": {"data": "UklGRg==", "format": "wav"},
    }
    assert attachment("video", str(file))["video_url"]["url"].startswith("data:video/wav;base64,")
    assert main(["chat", "m", "-p", "x", "--image", str(tmp_path / "none")]) == 2


def test_refusals_of_both_shapes() -> None:
    assert error_sentence(404, b'{"error": "gone"}') == error_sentence(404, b'{"error": {"message": "gone"}}') == "gone"
    assert error_sentence(503, b'{"kind": "Status", "message": "no endpoints available"}') == "no endpoints available"
    assert error_sentence(502, b"<html>") == "the gateway answered 502"


def test_a_clusters_models() -> None:
    resource = convert(
        {
            "metadata": {"name": "m", "namespace": "prod"},
            "status": {
                "phase": "Downloading",
                "summary": "Downloading 43 %",
                "replicas": 1,
                "model": {"family": "text", "parameters": "8.19B"},
                "engine": {"name": "vllm", "reason": "a GPU is asked for", "version": "0.32.0"},
                "quantization": {"chosen": "4bit", "reason": "it fits"},
                "adapters": [
                    {"name": "sql", "state": "Failed", "readyReplicas": 1, "message": "There is no acme/sql."},
                    {"name": "french", "state": "Ready", "readyReplicas": 2, "ofTomorrow": 1},
                ],
                "conditions": [{"type": "Ready", "status": "False", "reason": "Downloading", "message": "43 %"}],
            },
        },
        ResourceView,
    )
    new = convert({"metadata": {"name": "new", "namespace": "prod"}}, ResourceView)
    assert "Downloading 43 %" in resources_table([new, resource])
    assert "not reconciled by an operator yet" in resources_table([new])
    assert resources_table([]) == "No ModelDeployments found."
    text = resource_details(resource)
    assert "4bit – it fits" in text
    assert "vllm 0.32.0 – a GPU is asked for" in text
    told = [line.split() for line in text.splitlines()]
    assert ["sql", "Failed", "1", "There", "is", "no", "acme/sql."] in told
    assert ["french", "Ready", "2"] in told
    assert text.splitlines()[-1].split() == ["Ready", "False", "Downloading", "43", "%"]


async def test_everything_about_one_model() -> None:
    pod = {"pod": "qwen-vl-7", "architecture": "Qwen", "precision": "bfloat16", "quantization": "4bit",
           "device": "cuda", "context_tokens": 4096}  # fmt: skip
    adapters = [{"name": "sql", "state": "failed", "message": "Its lock differs."}, {"name": "fr", "state": "ready"}]
    config = {"type": "text", "path": None, "path_exists": True, "quant_bits": 4, "max_memory": None, "state": "ready",
              "replicas": 1, "ready_replicas": 1, "message": "", "modalities": ["image", "text"], "download": None,
              "pods": [pod, {"pod": "qwen-vl-8", "adapters": adapters},
                       {"pod": "qwen-vl-9", "engine": "vLLM 0.32.0"}]}  # fmt: skip
    report = {"timestamp": 1, "available_models": ["qwen_vl"], "model_configs": {"qwen_vl": config}, "unreachable": []}
    text = await gateway_status(FakeGateway(FakeAnswer(200, json.dumps(report).encode())), "Qwen-VL")
    assert [line.split(maxsplit=1) for line in text.splitlines()] == [
        ["type:", "text"],
        ["path_exists:", "true"],
        ["quant_bits:", "4"],
        ["state:", "ready"],
        ["replicas:", "1"],
        ["ready_replicas:", "1"],
        ["modalities:", "image, text"],
        ["pod", "qwen-vl-7:    Qwen, bfloat16, 4bit, cuda, 4096 tokens of context"],
        ["pod", "qwen-vl-8:"],
        ["pod", "qwen-vl-9:    vLLM 0.32.0"],
        ["adapter", "sql:      failed: Its lock differs."],
        ["adapter", "fr:       ready"],
    ]


async def test_an_answer_that_is_none(tmp_path: Path) -> None:
    gateway = FakeGateway(FakeAnswer(200, b"<html>"))
    with pytest.raises(GatewayError, match="is not AI Model Server's"):
        await gateway_status(gateway, None)
    async with at_url("http://127.0.0.1:1") as nobody:
        with pytest.raises(GatewayError):
            await nobody.open("GET", "/")
