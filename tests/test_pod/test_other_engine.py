"""Engines of other makes behind the port, as a scripted server plays them: answers, refusals, and all that breaks."""

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ams_common.lifecycle import Phase
from ams_common.pod_settings import ServeSettings
from ams_pod.engines.openai import supervisor as supervising
from ams_pod.engines.openai import watch
from ams_pod.engines.port import Constraint, EngineRefusal, LoadFailed, Sampling, TokenEvent
from cycles import left_to_the_collector
from fakehub import checkpoints
from other_engine_harness import beside, child, opened


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.make("llama", tmp_path_factory.mktemp("model") / "llama")


def told(events: list[TokenEvent]) -> tuple[list[int | None], Any]:
    return [event.token for event in events if event.token is not None], events[-1].finish


ENGINES = ["vllm", "llamacpp", "sglang", "custom"]


async def test_requests_leave_no_cycles(folder: Path) -> None:
    """A pod of such an engine collects rarely; with its prompt a request would be kilobytes."""
    async with beside(folder) as one:
        await one.answer(2)
        with left_to_the_collector("ams_") as found:
            for _ in range(20):
                await one.answer(2)
            one.engine.cancel(one.ask(10_000))
            await asyncio.sleep(0.2)
            one.answers.events.clear()
        assert len(found) < 20, found[:5]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("per_chunk", [1, 3])
async def test_tokens_are_counted_exactly(folder: Path, engine: str, per_chunk: int) -> None:
    async with beside(folder, engine, per_chunk=per_chunk, ids=engine != "custom") as one:
        events = await one.answer(8)
        tokens, finish = told(events)
        assert (len(tokens), finish) == (8, "length")
        if engine != "custom":
            assert tokens == [*range(100, 108)]
            assert events[0].ticket.cached_tokens == 2
        else:
            assert "".join(event.text or "" for event in events) == "".join(f"w{token} " for token in range(100, 108))
        assert one.engine.counters.decode_tokens == 8
        assert one.engine.counters.prefill_tokens == (1 if events[0].ticket.cached_tokens else 3)
        assert events[0].ticket.compute_seconds > 0


@pytest.mark.parametrize("engine", ["vllm", "llamacpp", "sglang"])
async def test_the_token_that_ends_an_answer_is_told_with_its_end(folder: Path, engine: str) -> None:
    end = json.loads((folder / "generation_config.json").read_text())["eos_token_id"][0]
    async with beside(folder, engine, eos=end, at=2) as one:
        events = await one.answer(8)
        assert [(event.token, event.finish) for event in events] == [(100, None), (101, None), (end, "stop")]
        events = await one.answer(8, stop_tokens=(101,))
        assert [(event.token, event.finish) for event in events] == [(100, None), (101, "stop")]


async def test_what_is_asked_reaches_vllm(folder: Path) -> None:
    async with beside(folder) as one:
        sampling: dict[str, Any] = {
            "temperature": 0.5, "top_p": 0.4, "top_k": 3, "min_p": 0.2, "repetition_penalty": 1.5, "seed": 7,
            "presence_penalty": 0.5, "frequency_penalty": -0.5, "ignore_eos": True, "min_new_tokens": 2,
            "stop_tokens": (5,), "banned_tokens": (6,), "allowed_tokens": (100, 101, 6), "logprobs": 1,
            "logit_bias": ((8, 1.5),), "constraint": one.engine.prepare_constraint(Constraint("regex", "a+")),
        }  # fmt: skip
        events = await one.answer(3, **sampling)
        assert one.fake is not None
        [asked] = one.fake.asked
        expected = {
            "path": "/v1/completions", "model": "the-model", "prompt": [1, 2, 3], "max_tokens": 3, "temperature": 0.5,
            "top_p": 0.4, "top_k": 3, "min_p": 0.2, "repetition_penalty": 1.5, "seed": 7, "presence_penalty": 0.5,
            "frequency_penalty": -0.5, "ignore_eos": True, "min_tokens": 2, "stop_token_ids": [5],
            "allowed_token_ids": [100, 101, 6], "logprobs": 1, "logit_bias": {"8": 1.5, "6": -100.0},
            "structured_outputs": {"regex": "a+"}, "return_token_ids": True,
        }  # fmt: skip
        assert expected.items() <= asked.items()
        assert events[0].logprobs is not None
        assert events[0].logprobs.top == ((100, -0.5), (7, -2.0))
        events = await one.answer(2, prompt_logprobs=1)
        asked_for = events[0].ticket.prompt_logprobs
        assert asked_for is not None
        assert [each and each.token for each in asked_for] == [None, 2, 3]


async def test_the_likeliest_token_is_the_first_of_one_for_llamacpp(folder: Path) -> None:
    """Its temperature of nothing leaves the whole vocabulary in the run, which costs a fifteenth of 32 rows' step."""
    async with beside(folder, "llamacpp") as one:
        await one.answer(2, top_p=0.4, top_k=3, min_p=0.2, repetition_penalty=1.5)
        await one.answer(2, temperature=0.5, top_p=0.4, top_k=3, min_p=0.2)
        assert one.fake is not None
        greedy, drawn = one.fake.asked
        assert {"top_k": 1, "samplers": ["penalties", "top_k"], "repeat_penalty": 1.5}.items() <= greedy.items()
        assert drawn["samplers"] == ["penalties", "temperature", "top_k", "top_p", "min_p"]
        assert {"temperature": 0.5, "top_p": 0.4, "top_k": 3, "min_p": 0.2}.items() <= drawn.items()


async def test_what_is_asked_reaches_sglang(folder: Path) -> None:
    """In the names of its `CompletionRequest`."""
    async with beside(folder, "sglang") as one:
        schema = {"type": "object", "properties": {"b": {}, "a": {}}}
        sampling: dict[str, Any] = {
            "temperature": 0.5, "top_p": 0.4, "top_k": 3, "min_p": 0.2, "repetition_penalty": 1.5, "seed": 7,
            "ignore_eos": True, "min_new_tokens": 2, "stop_tokens": (5,), "banned_tokens": (6,),
            "constraint": one.engine.prepare_constraint(Constraint("json-schema", json.dumps(schema))),
        }  # fmt: skip
        ticket = one.engine.submit(
            one.engine.prepare_ids((1, 2)), Sampling(3, **sampling), lambda event: None, cache_salt="team-a"
        )
        await one.wait(ticket)
        assert one.fake is not None
        [asked] = one.fake.asked
        expected = {
            "path": "/v1/completions", "model": "the-model", "prompt": [1, 2], "max_tokens": 3, "temperature": 0.5,
            "top_p": 0.4, "top_k": 3, "min_p": 0.2, "repetition_penalty": 1.5, "seed": 7, "ignore_eos": True,
            "min_tokens": 2, "stop_token_ids": [5], "logit_bias": {"6": -100.0}, "return_token_ids": True,
            "skip_special_tokens": False,
            "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
        }  # fmt: skip
        assert expected.items() <= asked.items()
        assert list(asked["response_format"]["json_schema"]["schema"]["properties"]) == ["b", "a"]
        assert asked["cache_salt"]
        await one.answer(2)
        assert "cache_salt" not in one.fake.asked[-1], "what all may share"


@pytest.mark.parametrize(
    ("constraint", "fields"),
    [
        (Constraint("json-object", ""), {"response_format": {"type": "json_object"}}),
        (Constraint("regex", "a+"), {"regex": "a+"}),
        (Constraint("choice", '["a.b", "c"]'), {"regex": r"(a\.b)|(c)"}),
        (Constraint("lark", 'root ::= "a"'), {"ebnf": 'root ::= "a"'}),
    ],
)
async def test_forms_of_sglang(folder: Path, constraint: Constraint, fields: dict[str, Any]) -> None:
    async with beside(folder, "sglang") as one:
        assert one.engine.prepare_constraint(constraint).fields == fields
        lark = one.engine.prepare_constraint(Constraint("lark", 'start: "a" | "b"')).fields["ebnf"]
        assert lark.startswith("root ::= r0\n"), "Lark is nothing that xgrammar reads"


@pytest.mark.parametrize(("newer", "path"), [(True, "/server_info"), (False, "/get_server_info")])
async def test_versions_of_sglang(folder: Path, newer: bool, path: str) -> None:
    async with beside(folder, "sglang", newer=newer, version="0.5.23") as one:
        assert one.fake is not None
        assert one.fake.asked_facts == [path]
        assert one.engine.health.version == "0.5.23"
        assert one.engine.info.engine == "SGLang 0.5.23"
        events = await one.answer(3)
        assert told(events)[0] == ([100, 101, 102] if newer else [0, 0, 0])
        assert one.engine.counters.decode_tokens == 3


@pytest.mark.parametrize(
    ("engine", "sampling"),
    [
        ("llamacpp", {"allowed_tokens": (1,)}),
        ("llamacpp", {"min_new_tokens": 2}),
        ("llamacpp", {"prompt_logprobs": 1}),
        ("sglang", {"logprobs": 1}),
        ("custom", {"top_k": 3}),
        ("custom", {"ignore_eos": True}),
    ],
)
async def test_what_an_engine_cannot_do_is_refused(folder: Path, engine: str, sampling: Any) -> None:
    async with beside(folder, engine) as one:
        with pytest.raises(EngineRefusal, match="can't do this"):
            one.ask(4, **sampling)


async def test_forms_that_an_engine_cannot_follow_are_refused(folder: Path) -> None:
    async with beside(folder, "llamacpp") as one:
        for constraint in (Constraint("regex", "a"), Constraint("lark", "start: /a/"), Constraint("json-schema", "{")):
            with pytest.raises(EngineRefusal):
                one.engine.prepare_constraint(constraint)
        held = one.engine.prepare_constraint(Constraint("choice", '["a\\"b", "c"]'))
        assert held.fields == {"grammar": 'root ::= "a\\"b" | "c"'}


async def test_a_prompt_beyond_the_context_is_refused_before_it_is_sent(folder: Path) -> None:
    async with beside(folder) as one:
        with pytest.raises(EngineRefusal, match="maximum context length is 512"):
            one.ask(1, tuple(range(5, 300)) * 2)
        events = await one.answer(2000)
        assert one.fake is not None
        assert one.fake.asked[-1]["max_tokens"] == 509
        assert len(events) == 509


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        ("400", "invalid-prompt", "doesn't like"),
        ("refusal-event", "invalid-prompt", "Invalid grammar request"),
        ("too-long", "context-length-exceeded", "maximum context length"),
    ],
)
async def test_refusals_of_the_engine_are_refusals(folder: Path, fault: str, kind: str, message: str) -> None:
    async with beside(folder, fault=fault, at=0) as one:
        [event] = await one.answer()
        assert isinstance(event.error, EngineRefusal)
        assert (event.finish, event.error.kind) == ("failed", kind)
        assert message in str(event.error)


@pytest.mark.parametrize(
    ("fault", "message"),
    [("500", "doesn't like"), ("garbage", "no answer"), ("error-event", "broke inside"), ("close", "before it was")],
)
async def test_failures_of_the_engine_end_requests(folder: Path, fault: str, message: str) -> None:
    async with beside(folder, fault=fault, times=2) as one:
        events = await one.answer()
        assert events[-1].finish == "failed"
        assert message in str(events[-1].error)
        one.fake.script.times = 0  # type: ignore[union-attr]
        assert told(await one.answer())[1] == "length"


async def test_what_got_nothing_is_sent_once_more(folder: Path) -> None:
    async with beside(folder, fault="close", at=0, times=1) as one:
        assert told(await one.answer()) == ([*range(100, 105)], "length")
    async with beside(folder, fault="503", times=2) as one:
        assert told(await one.answer()) == ([*range(100, 105)], "length")


@pytest.mark.parametrize("engine", ["vllm", "llamacpp"])
async def test_a_cancelled_request_leaves_the_engine_at_once(folder: Path, engine: str) -> None:
    async with beside(folder, engine, seconds=0.02) as one:
        tickets = [one.ask(400) for _ in range(4)]
        waiting = one.ask(400)
        await asyncio.to_thread(one.answers.until, lambda: len(one.answers.events.get(tickets[0], ())) > 3)
        assert one.engine.occupancy().waiting == 1
        for ticket in (waiting, *tickets):
            one.engine.cancel(ticket)
        began = time.monotonic()
        while one.fake.running:  # type: ignore[union-attr]  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert time.monotonic() - began < 1.0
        for ticket in (waiting, *tickets):
            assert told(await one.wait(ticket))[1] == "cancelled"
        assert one.engine.occupancy().running == 0


async def test_keys_take_turns_when_more_wait_than_the_engine_has_places_for(folder: Path) -> None:
    from ams_pod.shares import Share

    async with beside(folder, seconds=0.01) as one:
        prepared = one.engine.prepare_ids((1, 2))
        many = [one.engine.submit(prepared, Sampling(10), lambda event: None, Share("a")) for _ in range(12)]
        await one.wait(many[0])
        other = one.engine.submit(prepared, Sampling(10), lambda event: None, Share("b"))
        await one.wait(other)
        assert sum(one.answers.ended(ticket) for ticket in many) < len(many)


async def test_an_idle_engine_sleeps_and_is_woken_by_the_next_request(folder: Path) -> None:
    async with beside(folder, settings={"engine_sleep_seconds": 0.5}) as one:
        assert one.fake is not None
        await one.answer()
        while not one.fake.asleep:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        assert one.engine.health.message in ("asleep", "")
        assert told(await one.answer())[1] == "length"
        assert (one.fake.slept, one.fake.woken) == (1, 1)


async def test_an_engine_that_hangs_beside_is_condemned(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with beside(folder, settings={"stall_seconds": 1.0}, fault="stall", times=1) as one:
        ticket = one.ask()
        events = await one.wait(ticket)
        assert events[-1].finish == "failed"
        health = one.engine.health
        assert not health.alive
        assert "none got a token" in health.message
        assert health.counts == {"stalled": 1}
        assert (health.version, one.engine.info.engine) == ("1.2.3+cpu", "vLLM 1.2.3+cpu")
        one.fake.script.version = "1.3\n" + "9" * 200  # type: ignore[union-attr]
        again = one.ask(3)
        one.engine.begins()  # another process is there already: its port never was without a listener
        assert one.engine.health.alive
        assert told(await one.wait(again))[1] == "length"
        assert one.engine.health.available
        assert one.engine.health.counts == {"stalled": 1}, "it is one restart"
        version = one.engine.health.version
        assert version.startswith("1.3 999"), "what is started again may be of another version"
        assert len(version) == 100
        assert one.engine.info.engine == f"vLLM {version}"
        one.engine.begins()
        assert told(await one.wait(one.ask(3)))[1] == "length", "one that nobody complained of goes on"


async def test_a_child_that_ends_is_started_again(folder: Path) -> None:
    async with opened(folder, child(folder, fault="exit", at=3, seconds=0.05)) as one:
        assert (Phase.READING, 50.0) in one.answers.phases
        tickets = [one.ask(10, seed=number) for number in range(32)]
        for ticket in tickets:
            events = await one.wait(ticket)
            assert events[-1].finish == "failed"
            assert isinstance(events[-1].error, EngineRefusal)
            assert events[-1].error.kind == "engine-lost"
        assert told(await one.wait(one.ask(3)))[1] == "length"
        assert one.engine.health.counts["ended"] >= 1
        assert "status 9" in one.engine.health.restarts[-1].sentence


async def test_a_child_that_hangs_is_ended_and_started_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "SILENT_SECONDS", 1.0)
    monkeypatch.setattr(supervising, "_HEALTH_TIMEOUT", 0.5)
    async with opened(folder, child(folder, fault="hang", at=3)) as one:
        pid = one.engine._supervisor._child.pid  # type: ignore[union-attr]
        events = await one.wait(one.ask(10))
        assert events[-1].finish == "failed"
        assert told(await one.wait(one.ask(2)))[1] == "length"
        assert one.engine.health.counts == {"silent": 1}
        assert one.engine._supervisor._child.pid != pid  # type: ignore[union-attr]


async def test_a_dead_core_behind_a_server_that_answers_is_ended(folder: Path) -> None:
    async with opened(folder, child(folder, fault="dead-core", times=1)) as one:
        ticket = one.ask(4)
        events = await one.wait(ticket, 30)
        assert events[-1].finish == "failed"
        assert isinstance(events[-1].error, EngineRefusal)
        assert events[-1].error.kind == "engine-lost"
        assert one.engine.health.counts["stalled"] >= 1


async def test_complaints_of_an_engine_that_ended_do_not_count_against_the_next_one(folder: Path) -> None:
    """Its health route complained for a moment before it ended by itself."""
    async with opened(folder, child(folder, fault="dying-core", at=9)) as one:
        assert (await one.wait(one.ask(9), 30))[-1].finish == "failed"  # it was sent twice
        assert told(await one.wait(one.ask(3), 30))[1] == "length"
        await asyncio.sleep(supervising._SICK_SECONDS + 2)
        assert told(await one.wait(one.ask(3), 30))[1] == "length"
        assert one.engine.health.counts == {"ended": 2}


async def test_what_its_metrics_tell_is_told(folder: Path) -> None:
    async with beside(folder) as one:
        await one.answer()
        while one.engine.occupancy().cache_tokens == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        assert one.engine.occupancy().cache_capacity_tokens == 1600
        assert one.engine.occupancy().cache_tokens == 400
        assert one.engine.info.device == "cpu"
        assert one.engine.info.engine == "vLLM 1.2.3+cpu"


async def test_a_child_that_does_not_start_says_why(folder: Path) -> None:
    settings = child(folder, "--fail", "RuntimeError: CUDA out of memory. Tried to allocate 3 GiB")
    with pytest.raises(LoadFailed, match=r"ended with status 3 .*its log ends with: RuntimeError: CUDA out of memory"):
        async with opened(folder, settings):
            pass
    with pytest.raises(LoadFailed, match="can't be started"):
        async with opened(folder, replace_command(settings, ["/no/such/program"])):
            pass
    with pytest.raises(LoadFailed, match="needs --engine-command"):
        async with opened(folder, replace_command(settings, None)):
            pass


def replace_command(settings: ServeSettings, command: list[str] | None) -> ServeSettings:
    import msgspec

    return msgspec.structs.replace(settings, engine_command=json.dumps(command) if command else "")


def test_the_key_of_a_child_is_seen_nowhere(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    from ams_pod.engines.openai.http import Address

    address = Address(port=1, key="secret-key")
    assert "secret-key" not in repr(address)
    assert b"Bearer secret-key" in address.head("GET", "/", 0)


def test_when_an_engine_hangs() -> None:
    signs = watch.Signs(answered_at=100.0, progress_at=90.0, running_since=50.0)
    assert watch.verdict(signs, 101.0, 30.0) is None
    found = watch.verdict(signs, 121.0, 30.0)
    assert found is not None
    assert found.reason == "silent"
    stalled = watch.verdict(replace(signs, answered_at=130.0), 131.0, 30.0)
    assert stalled is not None
    assert stalled.reason == "stalled"
    assert watch.verdict(replace(signs, answered_at=130.0), 131.0, 0.0) is None
    assert watch.verdict(replace(signs, answered_at=130.0, running_since=None), 131.0, 30.0) is None
