"""Supervised models with real processes: they start, stop, crash and fail, and the gateway's registry tells."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
from ams_common.errors import ApiError
from ams_common.lifecycle import Phase
from ams_common.resource.spec import ModelDeployment
from ams_gateway.registry.port import ModelFacts
from test_cli.local_fleet import gone, is_running, resource, running


async def test_a_model_starts_at_its_first_request_and_its_download_runs_once(tmp_path: Path) -> None:
    async with running(tmp_path, resource(autoscaling={"idleSeconds": 0})) as local:
        model = local.fleet.models()[0]
        assert (local.fleet.progress(model).phase, local.fleet.backends(model)) == ("idle", ())
        assert local.starts("download") == []

        seen = await local.demand()
        assert seen[0] == "idle"
        assert "downloading" in seen
        (backend,) = local.fleet.backends(model)
        assert local.fleet.progress(model).phase == Phase.READY
        assert backend.address.startswith(f"unix://{local.places.run_dir}/")
        assert (await local.ask())["response"] == "POST /generate"

        await local.until(lambda: local.steps["m"][-1] == "idle")  # idle
        assert local.fleet.backends(model) == ()
        await local.demand()
        assert len(local.starts("download")) == 1
        assert len(local.starts("serve")) == 2
    assert await gone(local.starts("serve"))


async def test_replicas_start_at_once_and_stay(tmp_path: Path) -> None:
    async with running(tmp_path, resource(on_demand=False)) as local:
        await local.until(lambda: local.steps["m"][-1] == "ready")
        assert local.supervisor().demand.waiting == 0


async def test_prefetch_downloads_at_once_but_starts_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, resource(cache={"prefetch": True})) as local:
        await local.until(lambda: local.supervisor().state.weights)
        assert local.steps["m"] == ["pending", "downloading", "pending"]
        assert local.starts("serve") == []
        assert "downloading" not in await local.demand()


async def test_an_idle_model_stops_only_after_its_last_request(tmp_path: Path) -> None:
    async with running(tmp_path, resource(autoscaling={"idleSeconds": 0})) as local:
        model = local.fleet.models()[0]
        waiting = local.fleet.wait_ready(model)
        async for _ in waiting:
            pass
        (backend,) = local.fleet.backends(model)
        backend.in_flight += 1
        pid = local.supervisor().process.pid if local.supervisor().process else 0
        assert (await local.ask())["pid"] == pid
        backend.in_flight -= 1
        backend.last_used = asyncio.get_running_loop().time()
        await local.until(lambda: local.steps["m"][-1] == "idle")
        assert not is_running(pid)


async def test_a_killed_model_is_back_for_the_next_request(tmp_path: Path) -> None:
    async with running(tmp_path, resource()) as local:
        await local.demand()
        pid = (await local.ask())["pid"]
        os.kill(pid, signal.SIGKILL)
        await local.until(lambda: not local.fleet.backends(local.fleet.models()[0]))
        killed = "the process was killed (SIGKILL), often for lack of memory; last line in "
        assert local.supervisor().progress.message.startswith(killed)
        await local.demand()
        assert (await local.ask())["pid"] != pid


async def test_a_killed_replica_is_started_again_by_itself(tmp_path: Path) -> None:
    async with running(tmp_path, resource(on_demand=False)) as local:
        await local.until(lambda: local.steps["m"][-1] == "ready")
        os.kill((await local.ask())["pid"], signal.SIGKILL)
        await local.until(lambda: len(local.starts("serve")) == 2 and local.steps["m"][-1] == "ready")


async def test_loading_is_followed_and_a_client_that_leaves_withdraws_its_demand(tmp_path: Path) -> None:
    async with running(tmp_path, resource(env={"FAKE_SERVE": "slow"})) as local:
        held = asyncio.create_task(local.demand())
        await local.until(lambda: local.supervisor().progress.phase == Phase.READING)
        assert local.supervisor().progress.percent == 50.0
        assert local.supervisor().demand.waiting == 1
        held.cancel()
        await asyncio.gather(held, return_exceptions=True)
        assert local.supervisor().demand.waiting == 0
        (local.places.models_dir / "go").touch()
        assert "reading" in [*await local.demand(), *local.steps["m"]]


async def test_a_frozen_process_is_ended_and_started_again(tmp_path: Path) -> None:
    async with running(tmp_path, resource()) as local:
        await local.demand()
        (first,) = local.starts("serve")
        os.kill(first, signal.SIGSTOP)  # its socket still accepts connections, and nothing answers
        await local.until(lambda: local.supervisor().state.phase == "idle")
        assert local.supervisor().progress.message == "the process hung: it didn't answer for 1.05 s"
        assert await gone([first])
        await local.demand()
        assert (await local.ask())["response"] == "POST /generate"
        assert len(local.starts("serve")) == 2


async def test_a_process_that_says_that_it_computes_nothing_is_started_again(tmp_path: Path) -> None:
    async with running(tmp_path, resource(env={"FAKE_SERVE": "stalled,ok"})) as local:
        await local.demand()
        await local.until(lambda: local.supervisor().state.phase == "idle")
        assert local.supervisor().progress.message == "the process hung: it computed nothing while requests waited"
        await local.demand()
        assert (await local.ask())["response"] == "POST /generate"


EXITED = "the process exited with status 3"


@pytest.mark.parametrize(
    ("env", "reason", "words", "retryable"),
    [
        ({"FAKE_DOWNLOAD": "gated"}, "GatedModel", "ask for access first", False),
        ({"FAKE_DOWNLOAD": "fail"}, "HubRateLimited", "the hub said 429", True),
        ({"FAKE_DOWNLOAD": "die"}, "DownloadFailed", f"{EXITED}; last line in {{log}}: out of cheese", True),
        ({"FAKE_SERVE": "gated"}, "GatedModel", "ask for access first", False),
    ],
)
async def test_a_failure_reaches_those_who_wait(
    tmp_path: Path, env: dict[str, str], reason: str, words: str, retryable: bool
) -> None:
    async with running(tmp_path, resource(env=env)) as local:
        held = [asyncio.create_task(local.demand()) for _ in range(3)]
        errors = await asyncio.gather(*held, return_exceptions=True)
        with pytest.raises(ApiError) as later:
            await local.demand()
        for error in (*errors, later.value):
            assert isinstance(error, ApiError)
            assert error.code == "model_failed"
            told = words.format(log=local.places.log_of("m"))
            assert error.message == f"m can't be served ({reason}): {told}"
            assert (error.details["reason"], error.details["retryable"]) == (reason, retryable)
        assert local.fleet.progress(local.fleet.models()[0]).phase == Phase.FAILED


async def test_a_passing_failure_is_retried_at_a_later_request(tmp_path: Path) -> None:
    async with running(tmp_path, resource(env={"FAKE_DOWNLOAD": "fail,ok"})) as local:
        with pytest.raises(ApiError):
            await local.demand()
        await asyncio.sleep(local.supervisor().state.not_before - asyncio.get_running_loop().time())
        await local.demand()
        assert (await local.ask())["response"] == "POST /generate"


async def test_a_process_that_dies_while_it_loads_is_tried_again_for_those_who_wait(tmp_path: Path) -> None:
    async with running(tmp_path, resource(env={"FAKE_SERVE": "die,die,ok"})) as local:
        await local.demand()
        assert len(local.starts("serve")) == 3


async def test_a_suspended_model_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path, resource(on_demand=False, suspend=True)) as local:
        with pytest.raises(ApiError, match="m is suspended") as caught:
            await local.demand()
        assert caught.value.code == "suspended"
        assert local.starts("download") == []


async def test_a_process_that_does_not_answer_is_ended(tmp_path: Path) -> None:
    async with running(tmp_path, resource()) as local:
        await local.demand()
        model = local.fleet.models()[0]
        (backend,) = local.fleet.backends(model)
        (pid,) = local.starts("serve")
        os.unlink(backend.address.removeprefix("unix://"))
        local.fleet.unreachable(model, backend)
        await local.until(lambda: not local.fleet.backends(model))
        assert await gone([pid])


async def test_draining_refuses_those_who_wait_and_starts_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, resource(env={"FAKE_SERVE": "slow"})) as local:
        held = asyncio.create_task(local.demand())
        await local.until(lambda: local.supervisor().progress.phase == Phase.READING)
        local.fleet.drain()
        with pytest.raises(ApiError) as caught:
            await held
        assert caught.value.code == "draining"


async def test_closing_ends_processes_that_ignore_it(tmp_path: Path) -> None:
    async with running(tmp_path, resource(env={"FAKE_SERVE": "hang"})) as local:
        await local.demand()
        (pid,) = local.starts("serve")
    assert await gone([pid])
    assert local.supervisor().progress.phase == Phase.IDLE


async def test_names_aliases_and_limits(tmp_path: Path) -> None:
    one = resource(
        "qwen-vl",
        model={"source": "hf://a/b", "family": "vision-language", "aliases": ["Qwen/Qwen2.5-VL"]},
        limits={"maxBodyBytes": "1Mi", "requestTimeoutSeconds": 30},
    )
    async with running(tmp_path, one, resource("a")) as local:
        assert [model.name for model in local.fleet.models()] == ["a", "qwen-vl"]
        model = local.fleet.find("Qwen_VL")
        assert model is not None
        assert model is local.fleet.find("qwen/qwen2.5-vl")
        assert local.fleet.find("other") is None
        assert (model.max_body_bytes, model.request_timeout_seconds) == (1 << 20, 30.0)
        assert model.modalities == {"text", "image", "video"}


async def test_a_process_gets_the_manifests_variables_and_not_our_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMS_PORT", "5000")
    monkeypatch.setenv("AMS_THREADS", "1")
    async with running(tmp_path, resource(env={"HF_ENDPOINT": "http://127.0.0.1:1"})) as local:
        await local.demand()
        environment = (await local.ask())["environment"]
        ours = {name: value for name, value in environment.items() if name.startswith("AMS_")}
        assert ours["AMS_NAME"] == "m"
        assert ours["AMS_SOURCE"] == "hf://a/b"
        assert ours["AMS_THREADS"] == "1"
        assert "AMS_PORT" not in ours
        assert environment["HF_ENDPOINT"] == "http://127.0.0.1:1"


async def test_modalities_are_read_of_the_weights(tmp_path: Path) -> None:
    source = tmp_path / "weights"
    source.mkdir()
    (source / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    async with running(tmp_path, resource(model={"source": f"file://{source}"})) as local:
        model = local.fleet.models()[0]
        assert model.modalities == {"text"}
        assert model.facts == ModelFacts(
            model_type="text",
            source=str(source),
            source_exists=True,
            replicas=0,
            engine="builtin",
            engine_reason="no GPU is asked for",
        )


def large(folder: Path, name: str) -> ModelDeployment:
    """A model whose weights claim 1 GiB, so that it needs 1.3 GiB."""
    source = folder / f"weights-{name}"
    source.mkdir()
    (source / "config.json").write_text("{}")
    with (source / "model.safetensors").open("wb") as file:
        file.truncate(1 << 30)
    return resource(name, model={"source": f"file://{source}"}, quantization="none")


async def test_the_least_recently_used_stops_for_another_one(tmp_path: Path) -> None:
    models = [large(tmp_path, name) for name in "abc"]
    async with running(tmp_path, *models, memory_limit=3 << 30) as local:
        await local.demand("a")
        await local.demand("b")
        for name, when in (("a", 2.0), ("b", 1.0)):
            (backend,) = local.fleet.backends(local.fleet.find(name))
            backend.last_used += when
        await local.demand("c")
        assert [local.supervisor(name).state.phase for name in "abc"] == ["ready", "idle", "ready"]


async def test_a_model_that_is_in_use_is_waited_for(tmp_path: Path) -> None:
    models = [large(tmp_path, name) for name in "ab"]
    async with running(tmp_path, *models, memory_limit=2 << 30) as local:
        await local.demand("a")
        (backend,) = local.fleet.backends(local.fleet.find("a"))
        backend.in_flight += 1
        asking = asyncio.create_task(local.demand("b"))
        await local.until(
            lambda: local.supervisor("b").progress.message == "waiting for memory of models that are in use"
        )
        assert local.supervisor("a").state.phase == "ready"
        backend.in_flight -= 1
        await asking
        assert [local.supervisor(name).state.phase for name in "ab"] == ["idle", "ready"]
