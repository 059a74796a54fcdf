"""Whether the files fit, whether they are the locked ones: tables of cases."""

import json

import pytest
from ams_common.hub_files import RemoteFile
from ams_pod.download.failures import Failed
from ams_pod.download.plan import check_lock, parse_lock, plan_download
from hypothesis import given
from hypothesis import strategies as st

SPARE = 64 << 20  # more than is ever kept free beside the files


def test_counts_what_is_there() -> None:
    files = [RemoteFile("a", 100), RemoteFile("b", 50)]
    plan = plan_download(files, {"a": 30, "b": 50}, folder="/models", free_bytes=1 << 30)
    assert (plan.total_bytes, plan.missing_bytes) == (150, 70)


def test_refuses_what_cannot_fit_with_the_numbers() -> None:
    with pytest.raises(Failed) as caught:
        plan_download([RemoteFile("a", 7 << 30)], {"a": 1 << 30}, folder="/models", free_bytes=2 << 30)
    assert caught.value.failure.reason == "DiskFull"
    assert "/models has 2.0 GiB free and 6.0 GiB more are needed" in caught.value.failure.message


def test_a_full_disk_is_no_matter_when_all_is_there() -> None:
    assert plan_download([RemoteFile("a", 9)], {"a": 9}, folder="/models", free_bytes=0).missing_bytes == 0


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(0, 1 << 40), st.integers(0, 1 << 40))),
    st.integers(0, 1 << 45),
)
def test_a_plan_never_needs_more_than_is_free(files: dict[str, tuple[int, int]], free: int) -> None:
    listing = [RemoteFile(path, size) for path, (size, _) in files.items()]
    present = {path: there for path, (_, there) in files.items()}
    missing = sum(max(0, size - there) for size, there in files.values())
    if missing > free:
        with pytest.raises(Failed):
            plan_download(listing, present, folder="/models", free_bytes=free)
    elif missing + SPARE <= free:
        plan = plan_download(listing, present, folder="/models", free_bytes=free)
        assert plan.missing_bytes == missing <= plan.total_bytes


def test_something_stays_free_to_the_byte() -> None:
    listing, spare = [RemoteFile("a", 1000)], 16_777_216
    assert plan_download(listing, {}, folder="/models", free_bytes=1000 + spare).missing_bytes == 1000
    with pytest.raises(Failed):
        plan_download(listing, {}, folder="/models", free_bytes=1000 + spare - 1)
    assert plan_download(listing, {"a": 1}, folder="/models", free_bytes=1000 + spare - 1).missing_bytes == 999


def test_a_file_of_unknown_size_counts_as_nothing() -> None:
    plan = plan_download([RemoteFile("a", None), RemoteFile("b", 7)], {}, folder="/models", free_bytes=1 << 30)
    assert (plan.total_bytes, plan.missing_bytes) == (7, 7)
    plan = plan_download([RemoteFile("a", 5)], {"a": 9}, folder="/models", free_bytes=0)
    assert (plan.total_bytes, plan.missing_bytes) == (5, 0), "more than there should be is none that is missing"


A, B = "a" * 64, "b" * 64


@pytest.mark.parametrize(
    ("lock", "digests", "words"),
    [
        ({}, {"model.safetensors": A}, None),
        ({"model.safetensors": A}, {"model.safetensors": A, "config.json": B}, None),
        ({"model.safetensors": A}, {"model.safetensors": None}, None),
        ({"model.safetensors": A}, {"model.safetensors": B}, "model.safetensors has sha256 bbb"),
        ({"config.json": A, "model.safetensors": A}, {"model.safetensors": A}, "config.json is locked but not part"),
        ({"config.json": A}, {"config.json": A, "model.safetensors": A}, "the lock doesn't name it"),
    ],
)
def test_compares_with_the_lock(lock: dict[str, str], digests: dict[str, str | None], words: str | None) -> None:
    if words is None:
        check_lock(lock, digests)
        return
    with pytest.raises(Failed) as caught:
        check_lock(lock, digests)
    assert caught.value.failure.reason == "LockMismatch"
    assert words in caught.value.failure.message


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1}', '{"a": "xyz"}', f'{{"a": "{A[:-1]}"}}'])
def test_a_lock_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Failed) as caught:
        parse_lock(text)
    assert caught.value.failure.reason == "InvalidLock"


def test_reads_a_lock() -> None:
    assert parse_lock("") == {}
    assert parse_lock(json.dumps({"a": A.upper()})) == {"a": A}
