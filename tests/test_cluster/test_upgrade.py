"""An upgrade of the chart under load: models are renewed one by one, and nobody loses a request."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from test_cluster.conftest import RELEASE, ROOT, Installed
from test_cluster.test_crashes import asked

NAMES = ("first", "second")


@pytest.fixture
def two(installed: Installed) -> Iterator[Installed]:
    for name in NAMES:
        installed.apply(name, "hf://acme/tiny", cache={"size": "1Gi"})
    for name in NAMES:
        installed.wait_ready(name)
    yield installed
    installed.kubectl("delete", "mdep", *NAMES, "--wait=false")
    upgrade(installed, "IfNotPresent")


def upgrade(installed: Installed, policy: str) -> None:
    """Operators and gateways come anew, and describe the models' pods differently."""
    stamp = f"upgrade={int(time.time())}"
    installed.helm(
        "upgrade", RELEASE, str(ROOT / "charts" / "ai-model-server"), "--reuse-values", "--wait", "--timeout", "180s",
        "--set", f"podImage.pullPolicy={policy}",
        "--set-string", f"gateway.podAnnotations.{stamp},operator.podAnnotations.{stamp}",
    )  # fmt: skip


def renewed(installed: Installed, name: str) -> bool:
    deployment = installed.get("deployment", f"ams-{name}")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    return str(container["imagePullPolicy"]) == "Never"


def conditions(installed: Installed, name: str) -> dict[str, Any]:
    """Those of one moment: between two looks a model's turn may begin."""
    return {each["type"]: each for each in installed.get("mdep", name)["status"].get("conditions", [])}


def test_running_models_are_renewed_one_by_one_and_answer_all_the_while(two: Installed) -> None:
    assert [renewed(two, name) for name in NAMES] == [False, False]
    waited = False
    with asked(two, "first", 3) as first, asked(two, "second", 3) as second:
        upgrade(two, "Never")
        end = time.monotonic() + 240
        while not all(renewed(two, name) for name in NAMES):
            found = {name: conditions(two, name) for name in NAMES}
            behind = [name for name in NAMES if found[name].get("Progressing", {}).get("reason") == "Outdated"]
            if behind and any(renewed(two, name) for name in NAMES):
                waited = True
                assert [found[name]["Ready"]["status"] for name in behind] == ["True"] * len(behind)
            assert time.monotonic() < end, two.kubectl("describe", "mdep")
            time.sleep(0.3)
        for name in NAMES:
            two.wait_for_reason(name, "Progressing", "Complete")
            two.wait_ready(name)
    assert waited, "they were renewed at the same time"
    for results in (first, second):
        assert len(results) > 20
        assert [each for each in results if each != 200] == []
