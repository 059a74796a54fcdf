"""What is the same for all tests of `ams`."""

import os
from collections.abc import Iterator

import pytest

# Variables that say what tests may use. The command tells of each that it doesn't read it, and that is read here.
_OF_TESTS = (
    "AMS_CLIENTS", "AMS_E2E", "AMS_ENGINES", "AMS_FAULTS", "AMS_FUZZ", "AMS_LEDGER", "AMS_LLAMA_SERVER", "AMS_PICTURES",
    "AMS_TEST_", "AMS_VLLM",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def without_variables_of_tests() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(_OF_TESTS)]:
            patch.delenv(name)
        yield
