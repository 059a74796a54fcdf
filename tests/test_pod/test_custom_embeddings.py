"""Servers of any kind that make vectors or scores: what they take is tried, and what they get wrong is an error."""

import asyncio
import base64
import json
import math
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ams_common.gguf_embedding import GgufEmbedding
from ams_common.pod_settings import ServeSettings
from ams_pod.engines.builtin.gguf_prompts import write_embedding
from ams_pod.engines.openai.dialects.vectors import read_vector, scaled
from ams_pod.engines.openai.pieces import VectorForm
from ams_pod.engines.openai.trying_vectors import TriedVector, chosen_prompt, scale_of
from ams_pod.engines.port import EngineRefusal, LoadFailed
from fakehub import checkpoints
from other_engine_harness import Opened, opened
from test_odd_answers import PAGE, STACK, answer
from tokenizers import Tokenizer

NOT_FOUND = [answer({"detail": "Not Found"}, "404 Not Found")]
DETAIL = {"detail": [{"loc": ["body", "input"], "msg": "it has to be a string", "input": 5}]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.make("bert", tmp_path_factory.mktemp("model") / "bert")


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.make("bert_reranker", tmp_path_factory.mktemp("model") / "reranker")


def direction(text: str) -> list[float]:
    """A unit vector that tells a text."""
    angle = sum(text.encode()) / 1000
    return [math.cos(angle), math.sin(angle), 0.0]


@dataclass
class Server:
    """What it takes and gives: `counts` is what it says of a text's tokens, `odd` is sent in place of an answer."""

    folder: Path
    takes: tuple[str, ...] = ("ids", "text")
    route: str = "/v1/embeddings"
    encodes: bool = True  # base64, where it is asked for
    refuses: str = ""  # a field
    length: float = 1.0
    counts: Any = "tokens"
    apart: bool = False  # ids give another vector than their text
    rerank: str = "/v1/rerank"
    texts: bool = False  # as text-embeddings-inference has it
    score: Any = None  # of a document; None: a logit
    odd: list[bytes] = field(default_factory=list)
    seconds: float = 0.0
    running: int = 0
    most: int = 0  # that ran at once
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if (self.folder / "tokenizer.json").is_file():
            self.tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
            self.tokenizer.no_padding()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next((line[16:] for line in head.split(b"\r\n") if line.startswith(b"Content-Length: ")), b"0")
            body = await reader.readexactly(int(length))
            self.running += bool(body)
            self.most = max(self.most, self.running)
            if body:
                await asyncio.sleep(self.seconds)
            for part in self.answers(head.split(b" ")[1].decode(), json.loads(body or b"{}")):
                writer.write(part)
            self.running -= bool(body)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def answers(self, path: str, body: dict[str, Any]) -> list[bytes]:
        if path == "/health":
            return [answer({})]
        if path == "/v1/models":
            return NOT_FOUND
        if path == "/models":
            return [answer({"data": [{"id": "theirs"}]})]
        self.asked.append((path, body))
        if self.odd:
            return self.odd
        if self.refuses in body:
            return [answer({"detail": [{"loc": ["body", self.refuses], "msg": "not permitted"}]}, "422 Odd")]
        if path == self.route and "input" in body:
            return [self.vector(body)]
        if path == self.rerank and ("texts" if self.texts else "documents") in body:
            return [self.scores(body)]
        return [answer(DETAIL, "422 Odd")] if path in (self.route, self.rerank) else NOT_FOUND

    def vector(self, body: dict[str, Any]) -> bytes:
        given = body["input"]
        if ("text" if isinstance(given, str) else "ids") not in self.takes:
            return answer(DETAIL, "422 Unprocessable Entity")
        text = given if isinstance(given, str) else self.tokenizer.decode(given) + ("!" * 800 if self.apart else "")
        values: Any = [self.length * each for each in direction(text)]
        if self.encodes and body.get("encoding_format") == "base64":
            values = base64.b64encode(struct.pack("<3f", *values)).decode()
        if self.counts == "tokens":
            tokens = len(given if isinstance(given, list) else self.tokenizer.encode(given).ids)
        usage = {"prompt_tokens": tokens if self.counts == "tokens" else self.counts}
        return answer({"data": [{"index": 0, "embedding": values}], "usage": usage})

    def scores(self, body: dict[str, Any]) -> bytes:
        [text] = body["texts" if self.texts else "documents"]
        score = -1.5 if self.score is None else self.score(body["query"], text)
        if self.texts:
            return answer([{"index": 0, "score": score}])
        return answer({"results": [{"index": 0, "relevance_score": score}], "usage": {"total_tokens": 9}})


@asynccontextmanager
async def served(server: Server, engine: Any = "custom", **settings: Any) -> AsyncIterator[Opened]:
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    values = ServeSettings(
        name="m", source=f"file://{server.folder}", engine=engine, engine_address=f"http://127.0.0.1:{port}",
        concurrent_requests=4, **settings,
    )  # fmt: skip
    try:
        async with opened(server.folder, values) as one:
            yield one
    finally:
        listening.close()


async def vector_of(one: Opened, text: str) -> Any:
    [event] = await one.wait(one.submit(one.engine.prepare_text(text)))
    if event.error is not None:
        raise event.error
    return event.embedding


async def test_ids_go_where_they_are_taken(folder: Path) -> None:
    server = Server(folder)
    async with served(server) as one:
        assert one.engine.info.embedding_size == 3
        assert await vector_of(one, "the dog") == pytest.approx(direction("the dog"))
        path, asked = server.asked[-1]
        assert (path, asked["model"], asked["encoding_format"]) == ("/v1/embeddings", "theirs", "base64")
        assert asked["input"] == server.tokenizer.encode("the dog").ids


async def test_texts_go_where_ids_are_refused(folder: Path) -> None:
    server = Server(folder, takes=("text",))
    async with served(server) as one:
        assert await vector_of(one, "the dog") == pytest.approx(direction("the dog"))
        assert server.asked[-1][1]["input"] == "the dog"
        ids = server.tokenizer.encode("the dog").ids
        [event] = await one.wait(one.submit(one.engine.prepare_ids(ids)))
        assert server.asked[-1][1]["input"] == "the dog", "the tokens around it are the server's to put"
        assert len(event.ticket.prepared.ids) == len(ids)


async def test_texts_go_where_ids_give_another_vector(folder: Path) -> None:
    server = Server(folder, apart=True)
    async with served(server) as one:
        await vector_of(one, "the dog")
        assert server.asked[-1][1]["input"] == "the dog"


@pytest.mark.parametrize("route", ["/embeddings", "/v1/embeddings"])
async def test_the_route_is_tried(folder: Path, route: str) -> None:
    server = Server(folder, route=route)
    async with served(server) as one:
        await vector_of(one, "the dog")
        assert server.asked[-1][0] == route


async def test_base64_that_is_refused_or_not_heeded(folder: Path) -> None:
    async with served(Server(folder, encodes=False)) as one:
        assert await vector_of(one, "the dog") == pytest.approx(direction("the dog"))


@pytest.mark.parametrize(("counts", "expected"), [("tokens", 4), (None, 4), (7, 4), (-3, 4), ("many", 4)])
async def test_tokens_are_counted_by_who_can(folder: Path, counts: Any, expected: int) -> None:
    """A server that counts characters isn't believed."""
    async with served(Server(folder, takes=("text",), counts=counts)) as one:
        [event] = await one.wait(one.submit(one.engine.prepare_text("the dog")))
        assert len(event.ticket.prepared.ids) == expected
        assert one.engine.counters.prefill_tokens == expected


async def test_vectors_are_normalized_where_the_folder_says_so(folder: Path, tmp_path: Path) -> None:
    async with served(Server(folder, length=3.0)) as one:
        assert math.hypot(*await vector_of(one, "the dog")) == pytest.approx(1)
    plain = checkpoints.make("bert_cls", tmp_path / "plain")
    async with served(Server(plain, length=3.0)) as one:
        assert math.hypot(*await vector_of(one, "the dog")) == pytest.approx(3)


async def test_a_folder_without_modules_is_the_servers_to_read(tmp_path: Path) -> None:
    folder = checkpoints.make("bert", tmp_path / "silent")
    (folder / "modules.json").unlink()
    async with served(Server(folder), family="embedding") as one:
        assert one.engine.capabilities.features == {"embeddings"}


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ({"takes": ()}, "ids at /v1/embeddings.*it has to be a string.*text at"),
        ({"route": "/elsewhere"}, "no route /v1/embeddings or /embeddings"),
        ({"odd": [answer(PAGE, kind="text/html")]}, "what is no vector"),
    ],
)
async def test_a_server_that_makes_none_is_found_out_at_once(folder: Path, server: dict[str, Any], words: str) -> None:
    with pytest.raises(LoadFailed, match=words) as failed:
        async with served(Server(folder, **server)):
            pass
    assert "secret" not in str(failed.value)


def vectors(*values: Any, **more: Any) -> bytes:
    return answer({"data": [{"index": at, "embedding": value} for at, value in enumerate(values)], **more})


FAULTS = {
    "a page": [answer(PAGE, "502 Bad Gateway", "text/html")],
    "a page that is no error": [answer(PAGE, kind="text/html")],
    "elsewhere": [answer(b"", "307 Temporary Redirect", "text/plain", "Location: http://secret.example/")],
    "no key": [answer({"error": {"message": "Incorrect key sk-secretsecret"}}, "401 Unauthorized")],
    "no route": NOT_FOUND,
    "a stack": [answer({"detail": STACK}, "500 Internal Server Error")],
    "nothing": [answer(b"", "500 Internal Server Error", "text/plain")],
    "an empty answer": [answer(b"")],
    "an error that is none": [answer({"error": {"message": "it broke"}})],
    "no data": [answer({"data": []})],
    "null": [answer({"data": None})],
    "too many": [vectors([1.0, 0, 0], [1.0, 0, 0])],
    "shorter": [vectors([1.0, 0])],
    "longer": [vectors([1.0, 0, 0, 0])],
    "empty": [vectors([])],
    "NaN": [answer(b'{"data": [{"embedding": [NaN, 0, 0]}]}')],
    "infinite": [answer(b'{"data": [{"embedding": [1e999, 0, 0]}]}')],
    "NaN in base64": [vectors(base64.b64encode(struct.pack("<3f", math.nan, 0, 0)).decode())],
    "no base64": [vectors("secret!")],
    "half a number": [vectors("AAA=")],
    "texts": [vectors(["1", "2", "3"])],
    "nested": [vectors([[1.0, 0, 0]])],
    "an object": [vectors({"secret": 1})],
    "deep": [answer(b'{"data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")],
    "half a character": [answer(b'{"data": [{"embedding": "\xff\xff"}]}')],
    "no HTTP": [b"SSH-2.0-OpenSSH\r\n\r\n"],
    "too large": [answer(b" " * (17 << 20))],
}


@pytest.mark.parametrize("odd", FAULTS.values(), ids=FAULTS)
async def test_faults_are_errors_and_the_next_text_is_answered(
    folder: Path, odd: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(folder)
    async with served(server) as one:
        server.odd = odd
        with pytest.raises(EngineRefusal) as failed:
            await vector_of(one, "the dog")
        assert failed.value.kind == "engine-failed"
        assert "secret" not in str(failed.value)
        server.odd = []
        assert await vector_of(one, "the dog") == pytest.approx(direction("the dog"))
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    "usage", [None, 5, [], {"prompt_tokens": "x"}, {"prompt_tokens": 1 << 70}, {"total_tokens": 2}]
)
async def test_odd_counts_are_no_reason_to_fail(folder: Path, usage: Any) -> None:
    server = Server(folder)
    async with served(server) as one:
        server.odd = [vectors([1.0, 0, 0], usage=usage)]
        assert await vector_of(one, "the dog") == [1, 0, 0]


async def test_a_text_that_the_server_finds_too_long_is_the_clients(folder: Path) -> None:
    server = Server(folder)
    async with served(server) as one:
        for message in ("`inputs` must have less than 512 tokens. Given: 800", "Input is longer than the context size"):
            server.odd = [answer({"error": message, "error_type": "Validation"}, "413 Payload Too Large")]
            with pytest.raises(EngineRefusal) as failed:
                await vector_of(one, "the dog")
            assert failed.value.kind == "context-length-exceeded"


async def score_of(one: Opened, query: str, text: str) -> float:
    [event] = await one.wait(one.submit(one.engine.prepare_pair(query, text)))
    if event.error is not None:
        raise event.error
    assert event.embedding is not None
    [score] = event.embedding
    return score


def likeness(query: str, text: str) -> float:
    return 0.9 if set(query.split()) & set(text.split()) else 0.1


@pytest.mark.parametrize(("route", "texts"), [("/v1/rerank", False), ("/rerank", False), ("/rerank", True)])
async def test_scores_of_pairs_by_the_route_that_is_there(reranker: Path, route: str, texts: bool) -> None:
    server = Server(reranker, rerank=route, texts=texts)
    async with served(server) as one:
        assert one.engine.capabilities.features == {"rerank"}
        assert await score_of(one, "where", "the dog") == pytest.approx(1 / (1 + math.exp(1.5)))
        path, asked = server.asked[-1]
        assert path == route
        assert (asked["query"], asked["texts" if texts else "documents"]) == ("where", ["the dog"])


async def test_probabilities_stay_as_they_are(reranker: Path) -> None:
    async with served(Server(reranker, score=likeness)) as one:
        assert await score_of(one, "the cat", "the dog") == 0.9


async def test_scores_are_logits_where_the_folder_says_so(tmp_path: Path) -> None:
    folder = checkpoints.make("bert_reranker", tmp_path / "logits")
    config = json.loads((folder / "config.json").read_text())
    config["sentence_transformers"] = {"activation_fn": "torch.nn.modules.linear.Identity"}
    (folder / "config.json").write_text(json.dumps(config))
    async with served(Server(folder)) as one:
        assert await score_of(one, "the cat", "the dog") == -1.5
    async with served(Server(folder, score=likeness)) as one:
        assert await score_of(one, "the cat", "the dog") == pytest.approx(math.log(9))


@pytest.mark.parametrize(
    "odd",
    [
        [answer({"results": []})],
        [answer({"results": [{"index": 0}]})],
        [answer({"results": [{"relevance_score": "high"}]})],
        [answer(b'[{"score": NaN}]')],
        [answer([{"score": 0.1}, {"score": 0.2}])],
        [answer({"data": [{"embedding": [0.1, 0.2]}]})],
    ],
)
async def test_what_is_no_score_is_an_error(reranker: Path, odd: list[bytes]) -> None:
    server = Server(reranker)
    async with served(server) as one:
        server.odd = odd
        with pytest.raises(EngineRefusal) as failed:
            await score_of(one, "where", "the dog")
        assert failed.value.kind == "engine-failed"


async def test_a_server_that_reranks_nothing_is_found_out_at_once(reranker: Path) -> None:
    with pytest.raises(LoadFailed, match="no route /v1/rerank or /rerank or /v1/score"):
        async with served(Server(reranker, rerank="/elsewhere")):
            pass


def gguf_folder(folder: Path, **config: Any) -> Path:
    """What a download leaves of a GGUF file."""
    folder.mkdir()
    found = GgufEmbedding("last", {"architectures": ["Qwen3Model"], "max_position_embeddings": 512, **config})
    write_embedding(found, folder)
    return folder


async def test_of_a_gguf_file_the_engine_alone_has_the_tokenizer(tmp_path: Path) -> None:
    server = Server(gguf_folder(tmp_path / "m"), takes=("text",), counts=9)
    async with served(server) as one:
        assert (one.engine.info.family, one.engine.info.context_tokens) == ("embedding", 512)
        [event] = await one.wait(one.submit(one.engine.prepare_text("the dog")))
        assert event.embedding == pytest.approx(direction("the dog"))
        assert server.asked[-1][1]["input"] == "the dog"
        assert len(event.ticket.prepared.ids) == 9, "usage is what it counts"
        [event] = await one.wait(one.submit(one.engine.prepare_text("a" * 100_000)))
        assert event.embedding is not None, "it knows what is too long"
        for refused in (
            lambda: one.engine.prepare_ids([5]),
            lambda: one.engine.text_of([5]),
            lambda: one.engine.token_bytes(5),
            lambda: one.engine.detokenizer(),
            lambda: one.engine.prepare_chat([{"role": "user", "content": "hi"}]),
            lambda: one.engine.prepare_pair("a", "b"),
        ):
            with pytest.raises(EngineRefusal):
                refused()


@pytest.mark.parametrize(("is_decoder", "most"), [(True, 1), (False, 4)])
async def test_texts_that_share_a_cache_wait_for_each_other(tmp_path: Path, is_decoder: bool, most: int) -> None:
    server = Server(gguf_folder(tmp_path / "m", is_decoder=is_decoder), counts=300, seconds=0.02)
    async with served(server, "llamacpp") as one:
        tickets = [one.submit(one.engine.prepare_text(f"{number} " + "x" * 400)) for number in range(6)]
        assert all([(await one.wait(ticket))[-1].embedding for ticket in tickets])
        assert server.most == most


@pytest.mark.parametrize("engine", ["llamacpp", "custom"])
async def test_llamacpps_word_for_too_long_a_text(tmp_path: Path, engine: str) -> None:
    server = Server(gguf_folder(tmp_path / "m", is_decoder=False), counts=3)
    async with served(server, engine) as one:
        message = (
            "input (802 tokens) is too large to process. increase the physical batch size (current batch size: 512)"
        )
        server.odd = [answer({"error": {"code": 500, "message": message}}, "500 Internal Server Error")]
        with pytest.raises(EngineRefusal) as failed:
            await vector_of(one, "the dog")
        assert (failed.value.kind, failed.value.given) == ("context-length-exceeded", 802)


ONE, OTHER = (1.0, 0.0), (0.0, 1.0)


@pytest.mark.parametrize(
    ("ids", "text", "form"),
    [
        (TriedVector(ONE, 3), TriedVector(ONE, 3), VectorForm()),
        (TriedVector(ONE), TriedVector(), VectorForm()),
        (TriedVector(ONE, 5), TriedVector(), VectorForm(counts=False)),
        (TriedVector(ONE, 3), TriedVector(OTHER, 3), VectorForm(prompt="text")),
        (TriedVector(ONE, 3), TriedVector(OTHER, 9), VectorForm(prompt="text", counts=False)),
        (TriedVector(ONE, 3), TriedVector((1.0, 0.0, 0.0), 3), VectorForm()),
    ],
)
def test_how_texts_go(ids: TriedVector, text: TriedVector, form: VectorForm) -> None:
    assert chosen_prompt(3, ids, text) == form


def test_what_is_made_of_scores() -> None:
    assert scale_of([0.1, 0.9], wants_logits=False) == "as-is"
    assert scale_of([0.1, -0.9], wants_logits=False) == "sigmoid"
    assert scale_of([0.1, 1.9], wants_logits=True) == "as-is"
    assert scale_of([0.1, 0.9], wants_logits=True) == "logit"
    for logit in (-800.0, -3.0, 0.0, 3.0, 800.0):
        assert 0 <= scaled(logit, "sigmoid") <= 1
    assert scaled(scaled(2.5, "sigmoid"), "logit") == pytest.approx(2.5)
    assert math.isfinite(scaled(0.0, "logit"))
    assert math.isfinite(scaled(1.0, "logit"))


def test_a_list_alone_is_an_answer_too() -> None:
    assert read_vector(b' [{"index": 0, "score": 0.5}]', 1) == ([0.5], None)
