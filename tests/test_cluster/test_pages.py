"""Pages about clusters, executed: their commands run on one, and print what the pages show."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_cluster.clusters import ROOT
from test_cluster.conftest import NAMESPACE, RELEASE, Installed
from test_cluster.test_keys import change
from test_docs.blocks import read_page
from test_docs.shell import Shell

_INSTALL = f"helm install {RELEASE} charts/ai-model-server --namespace {NAMESPACE} --create-namespace"


@pytest.fixture
def shell(installed: Installed, images: str, tmp_path: Path) -> Iterator[Shell]:
    """In a folder with what the pages use of a checkout. The release that is there is upgraded to what they install."""
    for name in ("charts", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    closed = f"helm upgrade {RELEASE} charts/ai-model-server -n {NAMESPACE} --reuse-values --wait"

    def here(text: str) -> str:
        text = text.replace(_INSTALL, f"{closed} --set gateway.auth.anonymous=false")
        text = text.replace("ai-model-server-pod:0.1.0", f"ai-model-server-pod:{images}")
        return re.sub(r"\b5000\b", port, text)

    shell = Shell(tmp_path, installed.cluster.environment, here)
    try:
        yield shell
    finally:
        shell.close()


def test_the_journey_on_a_cluster(installed: Installed, shell: Shell) -> None:
    installed.kubectl("delete", "mdep", "smollm2", "--ignore-not-found")
    try:
        steps = read_page((ROOT / "docs" / "journeys" / "cluster.md").read_text()).steps
        assert len(steps) >= 8
        shell.run_all(steps)
    finally:
        change(installed, **{"auth.anonymous": "true"})


def test_weights_are_backed_up_and_restored(installed: Installed, shell: Shell) -> None:
    installed.kubectl("apply", "-f", str(ROOT / "examples" / "quickstart.yaml"))
    installed.wait_ready("smollm2", 240)
    shell.run_all(read_page((ROOT / "docs" / "operations" / "backup.md").read_text()).cluster_steps)
    answer = {"prompt": "What is the capital of France?", "temperature": 0, "max_new_tokens": 20}
    status, body = installed.post("/generate/restored", answer, timeout=180)
    assert (status, "Paris" in body["response"]) == (200, True)
    installed.kubectl("delete", "mdep", "restored")
    installed.kubectl("delete", "pvc", "restored", "--wait=false")
