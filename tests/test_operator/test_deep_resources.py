"""A resource that is nested deeper than anybody can read must not reach those who list all resources."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from ams_kube.client import Client
from models import create, model, until_children
from operator_process import OperatorProcess


def deep() -> Any:
    value: Any = "end"
    for _ in range(3000):
        value = {"a": value}
    return value


@pytest.fixture
def _deep_calls() -> Iterator[None]:
    """What sends such a resource calls itself for each level."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(60_000)
    yield
    sys.setrecursionlimit(before)


@pytest.mark.usefixtures("_deep_calls")
@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("affinity", {"affinity": deep()}),
        ("term", {"affinity": {"nodeAffinity": deep()}}),
        ("variable", {"env": [{"name": "A", "valueFrom": deep()}]}),
        ("claim", {"resources": {"claims": [{"name": "a", "more": deep()}]}}),
    ],
    ids=["affinity", "term", "variable", "claim"],
)
async def test_the_operator_reads_on_whatever_somebody_nests(
    name: str, spec: dict[str, Any], kube: Client, home: str, operator: OperatorProcess
) -> None:
    await create(kube, home, name, model(**spec))
    await create(kube, home, f"after-{name}", model())
    await until_children(kube, home, f"after-{name}")
    assert operator.running()
    assert "recursion" not in operator.text()
