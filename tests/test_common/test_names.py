"""How a route's model name meets a resource's."""

from ams_common.names import child_name, resource_name, route_name
from hypothesis import given
from hypothesis import strategies as st

NAMES = st.from_regex(r"\A[a-z]([-a-z0-9]{0,20}[a-z0-9])?\Z")


def test_names() -> None:
    assert resource_name("Qwen_VL") == "qwen-vl"
    assert route_name("qwen-vl") == "qwen_vl"
    assert child_name("qwen-vl") == "ams-qwen-vl"


@given(NAMES)
def test_a_resource_is_found_by_its_own_and_its_route_name(name: str) -> None:
    assert resource_name(name) == name
    assert resource_name(route_name(name)) == name
    assert resource_name(route_name(name).upper()) == name
