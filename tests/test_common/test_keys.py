"""Keys and their policies, as a file or a Secret holds them."""

import contextlib
import hashlib

import msgspec
import pytest
from ams_common.keys import (
    OPEN,
    VISITOR,
    InvalidKeys,
    KeyFile,
    Policy,
    Scope,
    Secret,
    StoredKey,
    hash_of,
    read_keys,
    write_keys,
)
from ams_common.request_usage import RequestUsage, parse_usage
from hypothesis import given
from hypothesis import strategies as st

SHA = hashlib.sha256(b"one").hexdigest()
OTHER = hashlib.sha256(b"two").hexdigest()


def stored(name: str = "team-a", id: str = "k1", sha: str = SHA, **policy: object) -> StoredKey:
    return StoredKey(id=id, name=name, secrets=(Secret(sha256=sha),), **policy)  # type: ignore[arg-type]


def test_a_file_is_read_as_it_was_written() -> None:
    file = KeyFile(
        keys=(
            stored(
                models=("qwen*", "deepseek"),
                scopes=(Scope.GENERATE, Scope.ADMIN),
                requests_per_minute=60,
                tokens_per_minute=10_000,
                concurrent_requests=4,
                monthly_tokens=10**9,
                priority=20,
                created=1_700_000_000,
            ),
            stored("b", "k2", OTHER),
        )
    )
    assert read_keys(write_keys(file)) == file
    assert SHA.encode() in write_keys(file)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ((stored(), stored("b", "k1", OTHER)), "has the id of b twice"),
        ((stored(), stored("team-a", "k2", OTHER)), "has the name team-a twice"),
        ((stored(), stored("b", "k2", SHA)), "has the key of b twice"),
        ((stored(sha="x"),), "something else than a sha256"),
        ((stored(name="a b"),), "use letters"),
        ((stored(id="anonymous"),), "an id of team-a that can't be used"),
        ((stored(id="x\r\ny"),), "an id of team-a that can't be used"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(keys: tuple[StoredKey, ...], message: str) -> None:
    with pytest.raises(InvalidKeys, match=message):
        read_keys(msgspec.json.encode(KeyFile(keys=keys)))


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b'{"version": 2}', b'{"keys": [{"name": "a"}]}', b'{"keys": 1}', b"\xff", b"[" * 100_000],
)
def test_anything_else_is_no_file_of_keys(data: bytes) -> None:
    with pytest.raises(InvalidKeys):
        read_keys(data)


@given(st.binary(max_size=300))
def test_any_bytes_are_keys_or_invalid(data: bytes) -> None:
    with contextlib.suppress(InvalidKeys):
        read_keys(data)


@pytest.mark.parametrize(
    ("globs", "names", "allowed"),
    [
        (("*",), ("anything",), True),
        (("qwen*",), ("qwen-vl",), True),
        (("Qwen_VL",), ("qwen-vl",), True),
        (("qwen*",), ("deepseek", "qwen-alias"), True),
        (("qwen*",), ("deepseek",), False),
        ((), ("deepseek",), False),
    ],
)
def test_models_are_globs_over_names_and_aliases(globs: tuple[str, ...], names: tuple[str, ...], allowed: bool) -> None:
    assert Policy(id="k", name="n", models=globs).may_use(names) is allowed


def test_who_comes_without_a_key() -> None:
    assert all(OPEN.policy.may(scope) for scope in Scope)
    assert [scope for scope in Scope if VISITOR.policy.may(scope)] == [Scope.GENERATE]
    assert not OPEN.policy.limited


def test_a_key_of_any_length_and_text_has_a_hash() -> None:
    assert hash_of("one") == SHA
    assert hash_of("x" * 5000) == hash_of("x" * 4096)
    assert len(hash_of("\udcff")) == 64


@given(
    st.builds(
        RequestUsage,
        prompt_tokens=st.integers(0, 10**12),
        completion_tokens=st.integers(0, 10**12),
        cached_tokens=st.integers(0, 10**12),
        media=st.integers(0, 10**6),
        compute_seconds=st.integers(0, 10**9).map(lambda micros: micros / 1e6),
    )
)
def test_usage_travels_as_text(usage: RequestUsage) -> None:
    assert parse_usage(f": usage {usage.text()}\n\n".encode()) == usage


def test_usage_of_a_pod_that_tells_less() -> None:
    assert parse_usage(b"prompt=12 completion=34") == RequestUsage(prompt_tokens=12, completion_tokens=34)
    assert parse_usage(b"tokens=12") is None
