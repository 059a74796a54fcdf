"""How engines of other makes are asked for an adapter, as a scripted server hears it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from ams_common.adapters import AdapterSettings, adapters_text
from ams_pod.engines.port import EngineRefusal, LoadFailed, Sampling
from test_pod.test_other_engine import beside, folder

__all__ = ["folder"]
SETTINGS = {"adapters": adapters_text([AdapterSettings("sql", "hf://a/sql"), AdapterSettings("french", "hf://a/fr")])}


@pytest.mark.parametrize(
    ("engine", "plain", "expected"),
    [
        ("vllm", {"model": "the-model"}, {"model": "m:french"}),
        ("sglang", {"model": "the-model"}, {"model": "the-model", "lora_path": "french"}),
        (
            "llamacpp",
            {"lora": [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 0.0}]},
            {"lora": [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 1.0}]},
        ),
    ],
)
async def test_an_adapter_is_asked_for(
    folder: Path, engine: str, plain: dict[str, Any], expected: dict[str, Any]
) -> None:
    async with beside(folder, engine, SETTINGS) as one:
        assert one.fake is not None
        await one.answer(2)
        await one.answer(2, adapter="french")
        without, asked = one.fake.asked
        assert plain.items() <= without.items()
        assert "lora_path" not in without
        assert expected.items() <= asked.items()


async def test_an_adapter_that_the_engine_does_not_have_is_refused(folder: Path) -> None:
    async with beside(folder, "vllm", SETTINGS) as one:
        with pytest.raises(EngineRefusal, match="no adapter 'german'"):
            one.ask(2, adapter="german")


async def test_what_one_adapter_left_in_a_slot_is_nothing_for_another(folder: Path) -> None:
    async with beside(folder, "llamacpp", SETTINGS) as one:
        assert one.fake is not None
        for adapter in ("", "sql", "french", "", "sql"):
            await one.answer(2, adapter=adapter)
        asked = one.fake.asked
        slots = [each["id_slot"] for each in asked]
        assert [each["cache_prompt"] for each in asked] == [False, False, False, True, True]
        assert (slots[3], slots[4]) == (slots[0], slots[1])
        assert len(set(slots)) == 3


async def test_a_clients_salt_and_an_adapter_part_slots_together(folder: Path) -> None:
    async with beside(folder, "llamacpp", SETTINGS) as one:
        assert one.fake is not None
        for salt in ("one", "other", "one"):
            prepared = one.engine.prepare_ids((1, 2, 3))
            ticket = one.engine.submit(prepared, Sampling(2, adapter="sql"), lambda event: None, cache_salt=salt)
            await one.wait(ticket)
            await asyncio.sleep(0)
        slots = [each["id_slot"] for each in one.fake.asked]
        assert slots[0] == slots[2] != slots[1]


@pytest.mark.parametrize("engine", ["vllm", "llamacpp"])
async def test_an_engine_that_has_not_loaded_all_of_them_is_not_served_by(folder: Path, engine: str) -> None:
    with pytest.raises(LoadFailed, match="has loaded 1 of the 2 adapters"):
        async with beside(folder, engine, SETTINGS, adapters=1):
            pass
