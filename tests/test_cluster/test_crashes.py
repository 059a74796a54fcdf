"""A server that is killed, and an image that isn't there: what requests and people notice, by a real kubelet."""

import concurrent.futures
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from test_cluster.conftest import Installed

HELLO = {"prompt": "hello", "temperature": 0, "max_new_tokens": 8}
KILLS = int(os.environ.get("AMS_TEST_CRASHES", "3"))


@pytest.fixture(scope="module")
def alone(installed: Installed) -> Iterator[Installed]:
    """With one replica on the default cache, which two pods can't have at the same time."""
    installed.apply("alone", "hf://acme/tiny", cache={"size": "1Gi"})
    installed.wait_ready("alone")
    yield installed
    installed.kubectl("delete", "mdep", "alone", "--wait=false")


@contextmanager
def asked(installed: Installed, name: str, a_second: float) -> Iterator[list[Any]]:
    """Requests come while inside; gives what became of each: its status, or the error of a connection."""
    stop, results = threading.Event(), []

    def ask() -> None:
        try:
            status, answer = installed.post(f"/generate/{name}", HELLO, timeout=180)
            results.append(status if status == 200 else (status, answer))
        except OSError as error:
            results.append(error)

    with concurrent.futures.ThreadPoolExecutor(200) as pool:

        def load() -> None:
            while not stop.wait(1 / a_second):
                pool.submit(ask)

        loader = threading.Thread(target=load)
        loader.start()
        try:
            yield results
        finally:
            stop.set()
            loader.join()


def server_process(installed: Installed, name: str) -> int:
    """The process of a model's server, on this machine. Within its container it can't be killed, as it is its first."""
    (pod,) = installed.get("pods", "-l=aimodelserver.io/model=" + name)["items"]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (
                pod["metadata"]["uid"] in (process / "cgroup").read_text()
                and b"serve" in (process / "cmdline").read_bytes()
            ):
                return int(process.name)
        except OSError:
            continue
    pytest.skip("the nodes of this cluster are not this machine")


def events_of(installed: Installed) -> list[Any]:
    uid = installed.get("mdep", "alone")["metadata"]["uid"]
    return [each for each in installed.get("events")["items"] if each["involvedObject"].get("uid") == uid]


def test_a_good_start_has_few_events(alone: Installed) -> None:
    events = events_of(alone)
    assert {each["type"] for each in events} == {"Normal"}
    assert [each["reason"] for each in sorted(events, key=lambda each: each["firstTimestamp"])][-1] == "Ready"
    assert len(events) <= 4, [each["message"] for each in events]


def test_a_killed_server_loses_no_request(alone: Installed) -> None:
    with asked(alone, "alone", 4) as results:
        for _ in range(KILLS):
            time.sleep(3)
            os.kill(server_process(alone, "alone"), signal.SIGKILL)
            end = time.monotonic() + 20
            while alone.condition("alone", "Ready")["status"] == "True":
                assert time.monotonic() < end, "the status never told"
                time.sleep(0.2)
            alone.wait_ready("alone")
    assert len(results) > 10 * KILLS
    assert [each for each in results if each != 200] == []
    told = next(each for each in events_of(alone) if each["reason"] == "Restarting")
    assert (told["type"], told["message"]) == (
        "Warning",
        "Available: The model server was killed by signal 9 (SIGKILL) and is started again.",
    )


def test_a_typo_in_the_image_ends_no_pod_and_is_told(alone: Installed) -> None:
    (before,) = alone.get("pods", "-l=aimodelserver.io/model=alone")["items"]
    with asked(alone, "alone", 4) as results:
        alone.kubectl("patch", "mdep", "alone", "--type=merge", "-p", '{"spec":{"image":"nowhere.invalid/x:typo"}}')
        told = alone.wait_for_reason("alone", "Progressing", "Stalled")
        assert "The image nowhere.invalid/x:typo can't be pulled" in told["message"]
        assert alone.condition("alone", "Ready")["status"] == "True"
        alone.kubectl("patch", "mdep", "alone", "--type=merge", "-p", '{"spec":{"image":null}}')
        alone.wait_for_reason("alone", "Progressing", "Complete")
    assert [each for each in results if each != 200] == []
    (after,) = alone.get("pods", "-l=aimodelserver.io/model=alone")["items"]
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert "ams-alone-pull" not in {each["metadata"]["name"] for each in alone.get("pods")["items"]}
