"""LoRA adapters that come and go while an engine runs: what it is asked, and which one each request gets."""

import asyncio
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ams_common.adapters import AdapterState, AdapterStates
from ams_common.progress import Failure
from ams_pod.engines.openai import adapters as following
from ams_pod.engines.openai import supervisor as supervising
from ams_pod.engines.openai.adapters import AdapterFollower, Refusal, served, to_load, to_unload, view_of
from ams_pod.engines.openai.dialects import dialect_of
from ams_pod.engines.openai.pieces import LoadedAdapter
from ams_pod.engines.port import EngineRefusal, LoadFailed
from other_engine_harness import Opened, child, opened
from test_pod.test_other_engine import beside, folder

__all__ = ["folder"]
ONE, TWO = "1" * 16, "2" * 16


def state(name: str, version: str = ONE, **more: Any) -> AdapterState:
    return AdapterState(name, f"asked-{version[:1]}", f"/adapters/{name}-{version[:1]}", version, 8, **more)


def loaded(*keys: str) -> dict[str, LoadedAdapter]:
    parts = [key.split("@") for key in keys]
    return {key: LoadedAdapter("m", name, version=version) for key, (name, version) in zip(keys, parts, strict=True)}


FAILED = AdapterState("sql", "asked-3", failure=Failure("ModelNotFound", "There is none."))


@pytest.mark.parametrize(
    ("states", "there", "in_use", "gets", "loads", "unloads"),
    [
        ([], [], [], {}, [], []),
        ([state("sql")], [], [], {}, ["sql"], []),
        ([state("sql")], [f"sql@{ONE}"], [], {"sql": ONE}, [], []),
        # Another one of its name takes its place once it is loaded, and the old one goes when nobody uses it.
        ([state("sql", TWO)], [f"sql@{ONE}"], [], {"sql": ONE}, ["sql"], []),
        ([state("sql", TWO)], [f"sql@{ONE}", f"sql@{TWO}"], [f"sql@{ONE}"], {"sql": TWO}, [], []),
        ([state("sql", TWO)], [f"sql@{ONE}", f"sql@{TWO}"], [], {"sql": TWO}, [], [f"sql@{ONE}"]),
        ([state("sql")], [f"sql@{ONE}", f"sql@{TWO}"], [], {"sql": ONE}, [], [f"sql@{TWO}"]),
        ([], [f"sql@{ONE}"], [f"sql@{ONE}"], {}, [], []),
        ([], [f"sql@{ONE}"], [], {}, [], [f"sql@{ONE}"]),
        # What can't be fetched keeps what was there.
        ([FAILED], [f"sql@{ONE}"], [], {"sql": ONE}, [], []),
        ([FAILED, state("fr")], [], [], {}, ["fr"], []),
    ],
)
def test_what_is_served_loaded_and_unloaded(
    states: list[AdapterState], there: list[str], in_use: list[str], gets: Any, loads: list[str], unloads: list[str]
) -> None:
    has = loaded(*there)
    assert {name: each.version for name, each in served(states, has).items()} == gets
    assert [each.name for each in to_load(states, has, {}, 0.0)] == loads
    assert [each.key for each in to_unload(states, has, lambda each: each.key in in_use)] == unloads


def test_what_an_engine_refused_is_asked_again_later() -> None:
    refused = {f"sql@{ONE}": Refusal("No.", 1, 60.0)}
    assert to_load([state("sql"), state("sql", TWO)], {}, refused, 59.0) == [state("sql", TWO)]
    assert to_load([state("sql")], {}, refused, 60.0) == [state("sql")]
    assert [following.retry_seconds(tries) for tries in (1, 2, 4, 99)] == [60.0, 120.0, 480.0, 900.0]


def test_what_is_told_of_each() -> None:
    refused = {f"sql@{TWO}": Refusal("It is too large.", 1, 60.0)}
    loading, ready = view_of(state("sql"), {}, {}), view_of(state("sql"), loaded(f"sql@{ONE}"), {})
    assert (loading.stage, loading.version, ready.stage, ready.version) == ("loading", "", "ready", ONE)
    late = view_of(state("sql", TWO), loaded(f"sql@{ONE}"), refused)
    assert (late.stage, late.reason, late.version) == ("failed", "LoadFailed", ONE)
    assert late.message == "It is too large. What was served under its name before still is."
    missing = view_of(FAILED, {}, {})
    assert (missing.stage, missing.reason, missing.message) == ("failed", "ModelNotFound", "There is none.")


@pytest.mark.parametrize(
    ("engine", "status", "body", "words"),
    [
        ("vllm", 200, b"Success: LoRA adapter added successfully.", None),
        ("vllm", 400, b'{"error":{"message":"The lora adapter \'m:a@1\' has already been loaded."}}', None),
        ("vllm", 500, b'{"error":{"message":"LoRA rank 64 is greater than max_lora_rank 16."}}', "made room for less"),
        ("vllm", 500, b'{"error":{"message":"No weights"}}', r"vLLM doesn't load it \(500\): No weights"),
        ("vllm", 404, b'{"detail":"Not Found"}', "loads no adapters while it runs"),
        ("vllm", 500, b"\xff\x00{", "doesn't load it"),
        ("sglang", 200, b'{"success":true,"error_message":""}', None),
        ("sglang", 200, b'{"success":false,"error_message":"No such path"}', "No such path"),
        ("sglang", 400, b'{"success":false,"error_message":"beyond max_lora_rank"}', "--max-lora-rank"),
    ],
)
def test_what_an_engine_says_against_an_adapter(engine: Any, status: int, body: bytes, words: str | None) -> None:
    told = dialect_of(engine).why_not_loaded(status, body, 64)
    assert (told is None) == (words is None)
    if words is not None:
        assert told is not None

        assert re.search(words, told), told


class Listed:
    """The file that tells which adapters there are, as the container beside writes it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "state.json"

    def write(self, *states: AdapterState) -> None:
        scratch = self.path.with_suffix(".new")
        scratch.write_bytes(msgspec.json.encode(AdapterStates(list(states))))
        os.replace(scratch, self.path)

    @property
    def settings(self) -> dict[str, str]:
        return {"adapters_state": str(self.path)}


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Listed:
    monkeypatch.setattr(supervising, "_WATCH_SECONDS", 0.05)
    return Listed(tmp_path)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def stages(one: Opened) -> dict[str, str]:
    return {each.name: each.stage for each in one.engine.adapters or ()}


NAMES = {"vllm": "m:sql@", "sglang": "sql@"}


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
async def test_all_are_loaded_before_it_is_ready_and_others_while_it_runs(
    folder: Path, listed: Listed, engine: str
) -> None:
    listed.write(state("sql"))
    async with beside(folder, engine, listed.settings, adapters=0) as one:
        assert one.fake is not None
        assert one.fake.loaded == {f"{NAMES[engine]}{ONE}": "/adapters/sql-1"}
        assert stages(one) == {"sql": "ready"}
        with pytest.raises(EngineRefusal, match="no adapter 'fr'"):
            one.ask(2, adapter="fr")
        listed.write(state("sql"), state("fr", TWO))
        await until(lambda: stages(one) == {"sql": "ready", "fr": "ready"})
        await one.answer(2, adapter="fr")
        field = "model" if engine == "vllm" else "lora_path"
        assert one.fake.asked[-1][field] == f"{NAMES[engine].replace('sql', 'fr')}{TWO}"
        listed.write(state("fr", TWO))
        await until(lambda: len(one.fake.loaded) == 1)
        with pytest.raises(EngineRefusal, match="no adapter 'sql'"):
            one.ask(2, adapter="sql")


async def test_an_adapter_goes_once_the_requests_that_use_it_have_ended(folder: Path, listed: Listed) -> None:
    listed.write(state("sql"))
    async with beside(folder, "vllm", listed.settings, adapters=0, seconds=0.05) as one:
        assert one.fake is not None
        running = one.ask(30, adapter="sql")
        await until(lambda: one.fake.running == 1)
        listed.write()
        await until(lambda: stages(one) == {})
        with pytest.raises(EngineRefusal):
            one.ask(2, adapter="sql")
        assert f"m:sql@{ONE}" in one.fake.loaded
        events = await one.wait(running)
        assert events[-1].finish == "length"
        await until(lambda: one.fake.loaded == {})


async def test_another_one_of_the_same_name_takes_its_place(folder: Path, listed: Listed) -> None:
    """Those that run or wait already end with the old one."""
    listed.write(state("sql"))
    async with beside(folder, "vllm", listed.settings, adapters=0, seconds=0.02) as one:
        assert one.fake is not None
        before = [one.ask(20, adapter="sql") for _ in range(6)]  # of which two wait, as four run at a time
        await until(lambda: one.fake.running == 4)
        listed.write(state("sql", TWO))
        await until(lambda: f"m:sql@{TWO}" in one.fake.loaded)
        await until(lambda: one.engine.adapters[0].version == TWO)
        after = one.ask(2, adapter="sql")
        for ticket in (*before, after):
            assert (await one.wait(ticket))[-1].finish == "length"
        assert [each["model"] for each in one.fake.asked] == [f"m:sql@{ONE}"] * 6 + [f"m:sql@{TWO}"]
        await until(lambda: list(one.fake.loaded) == [f"m:sql@{TWO}"])


async def test_what_the_engine_refuses_fails_alone(folder: Path, listed: Listed) -> None:
    listed.write(state("rank"), state("sql"))
    async with beside(folder, "vllm", listed.settings, adapters=0, refuses="rank") as one:
        assert one.fake is not None
        assert stages(one) == {"rank": "failed", "sql": "ready"}
        [view, _] = one.engine.adapters or ()
        assert '["--max-lora-rank", "8"]' in view.message
        await one.answer(2, adapter="sql")
        asked = len(one.fake.adapters_asked)
        await asyncio.sleep(0.3)
        assert len(one.fake.adapters_asked) == asked  # not at every look
        one.fake.script.refuses = ""
        listed.write(state("rank", TWO), state("sql"))
        await until(lambda: stages(one) == {"rank": "ready", "sql": "ready"})


async def test_what_cant_be_loaded_leaves_what_was_there(folder: Path, listed: Listed) -> None:
    listed.write(state("sql"))
    async with beside(folder, "vllm", listed.settings, adapters=0, refuses="-2") as one:
        assert one.fake is not None
        listed.write(state("sql", TWO))
        await until(lambda: stages(one) == {"sql": "failed"})
        await one.answer(2, adapter="sql")
        assert one.fake.asked[-1]["model"] == f"m:sql@{ONE}"


async def test_a_file_that_cant_be_read_changes_nothing(folder: Path, listed: Listed) -> None:
    listed.write(state("sql"))
    async with beside(folder, "vllm", listed.settings, adapters=0) as one:
        assert one.fake is not None
        for junk in (b"", b"{", b'{"adapters":[{"name":1}]}', b"\xff"):
            listed.path.write_bytes(junk)
            await asyncio.sleep(0.2)
            assert stages(one) == {"sql": "ready"}
        listed.path.unlink()
        await asyncio.sleep(0.2)
        await one.answer(2, adapter="sql")
        listed.write(state("sql"), state("fr"))
        await until(lambda: stages(one) == {"sql": "ready", "fr": "ready"})
        assert one.fake.adapters_asked.count(("load", f"m:sql@{ONE}")) == 1


async def test_without_a_file_there_are_none(folder: Path, listed: Listed) -> None:
    async with beside(folder, "vllm", listed.settings, adapters=0) as one:
        assert one.engine.adapters == ()
        await one.answer(2)


async def test_one_that_can_load_none_while_it_runs_is_not_asked_to(folder: Path, listed: Listed) -> None:
    with pytest.raises(LoadFailed, match=r"llama\.cpp loads no adapters while it runs"):
        async with beside(folder, "llamacpp", listed.settings, adapters=0):
            pass


async def test_what_an_earlier_process_had_loaded_is_known(folder: Path, listed: Listed) -> None:
    listed.write(state("sql"))
    async with beside(folder, "vllm", listed.settings, adapters=0) as one:
        assert one.fake is not None
        fake = one.fake
        fake.loaded[f"m:old@{TWO}"] = "/adapters/old"
        fake.loaded["m:not-ours"] = "/elsewhere"
        follower = AdapterFollower(str(listed.path), "m", dialect_of("vllm"))
        await follower.begin(one.engine._supervisor.address)
        assert list(follower.served) == ["sql"]
        assert fake.adapters_asked == [("load", f"m:sql@{ONE}")]
        await follower.go_on(one.engine._supervisor.address, lambda each: False, lambda each: None)
        assert list(fake.loaded) == [f"m:sql@{ONE}", "m:not-ours"]


async def test_an_engine_that_began_anew_gets_all_of_them_before_anything_else(
    folder: Path, listed: Listed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fake engine ends at the fourth token of its first answers; each start of it knows no adapter."""
    listed.write(state("sql"), state("fr"))
    settings = msgspec.structs.replace(
        child(folder, fault="exit", at=3, times=1, adapters=0), adapters_state=str(listed.path)
    )
    async with opened(folder, settings) as one:
        events = await one.answer(8, adapter="sql")  # got three tokens, so that it isn't asked again
        assert events[-1].finish == "failed"
        events = await one.answer(2, adapter="fr")
        assert events[-1].finish == "length"
        assert stages(one) == {"sql": "ready", "fr": "ready"}


async def test_requests_that_wait_for_a_lost_engine_get_the_adapters_of_now(folder: Path, listed: Listed) -> None:
    listed.write(state("sql"), state("fr"))
    async with beside(folder, "vllm", listed.settings, adapters=0) as one:
        assert one.fake is not None
        core, fake = one.engine._core, one.fake
        core.pause()
        stays, goes = one.ask(2, adapter="sql"), one.ask(2, adapter="fr")
        await until(lambda: core.waiting == 2)
        fake.loaded.clear()
        listed.write(state("sql", TWO))
        one.engine.begins()  # nothing happens, as it wasn't condemned
        supervisor = one.engine._supervisor
        supervisor.state.condemned = "it hangs"
        one.engine.begins()
        assert (await one.wait(stays))[-1].finish == "length"
        assert (await one.wait(goes))[-1].error is not None
        assert [each["model"] for each in fake.asked] == [f"m:sql@{TWO}"]


async def test_one_that_sleeps_wakes_for_an_adapter(folder: Path, listed: Listed) -> None:
    listed.write()
    settings = {**listed.settings, "engine_sleep_seconds": 0.3}
    async with beside(folder, "vllm", settings, adapters=0) as one:
        assert one.fake is not None
        await until(lambda: one.fake.asleep)
        listed.write(state("sql"))
        await until(lambda: stages(one) == {"sql": "ready"})
        assert one.fake.woken == 1
        await until(lambda: one.fake.asleep)
        await one.answer(2, adapter="sql")


async def test_answers_go_on_while_an_adapter_is_loaded(folder: Path, listed: Listed) -> None:
    listed.write()
    async with beside(folder, "vllm", listed.settings, adapters=0, load_seconds=1.0) as one:
        assert one.fake is not None
        listed.write(state("sql"))
        await until(lambda: bool(one.fake.adapters_asked))
        await one.answer(5)
        assert stages(one) == {"sql": "loading"}
        await until(lambda: stages(one) == {"sql": "ready"})
