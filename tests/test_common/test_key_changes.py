"""What is done with keys, apart from where they are kept."""

from base64 import urlsafe_b64decode

import msgspec
import pytest
from ams_common import key_changes
from ams_common.key_changes import RefusedChange
from ams_common.keys import KeyFile, Policy, Scope, read_keys, write_keys

NOW = 1_800_000_000.0
DAY = 86400


def key(number: int) -> str:
    return key_changes.new_key(bytes([number]) * key_changes.KEY_BYTES)


def policy(name: str, number: int = 0, **fields: object) -> Policy:
    return Policy(id=f"k-{number:012x}", name=name, **fields)  # type: ignore[arg-type]


def one(expires: int | None = None, **fields: object) -> KeyFile:
    return key_changes.create(KeyFile(), policy("a", **fields), key(1), NOW, expires)


def test_a_key_is_32_random_bytes_and_the_file_holds_only_its_hash() -> None:
    text = key(7)
    assert text.startswith("ams-key-")
    assert urlsafe_b64decode(text.removeprefix("ams-key-") + "=") == bytes([7]) * 32
    file = key_changes.create(KeyFile(), policy("a"), text, NOW, None)
    assert text.encode() not in write_keys(file)
    assert text.removeprefix("ams-key-").encode() not in write_keys(file)
    assert read_keys(write_keys(file)) == file
    assert key_changes.holds(file, text)
    assert not key_changes.holds(file, key(8))


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [("a", {}, "already"), ("b", {"scopes": ()}, "needs a scope"), ("b", {"number": 0}, "twice")],
)
def test_what_can_not_be_made(name: str, fields: dict[str, object], words: str) -> None:
    with pytest.raises(RefusedChange, match=words):
        key_changes.create(one(), policy(name, **({"number": 1} | fields)), key(2), NOW, None)


def test_a_new_key_may_not_have_expired() -> None:
    with pytest.raises(RefusedChange, match="in the past"):
        key_changes.create(KeyFile(), policy("a"), key(1), NOW, int(NOW) - 1)


def test_revoked_by_name_or_id() -> None:
    file = key_changes.create(one(), policy("b", 1), key(2), NOW, None)
    assert [each.name for each in key_changes.revoke(file, ["a"]).keys] == ["b"]
    assert key_changes.revoke(file, ["a", "k-000000000001"]).keys == ()
    with pytest.raises(RefusedChange, match="there are: a, b"):
        key_changes.revoke(file, ["a", "c"])


def test_rotation_keeps_id_policy_and_for_a_while_the_old_key() -> None:
    file = one(requests_per_minute=5)
    at_once = key_changes.rotate(file, "a", key(2), NOW, expires=msgspec.UNSET)
    assert not key_changes.holds(at_once, key(1))
    later = key_changes.rotate(file, "a", key(2), NOW, keep_seconds=DAY, expires=msgspec.UNSET)
    [stored] = later.keys
    assert (stored.id, stored.requests_per_minute) == (file.keys[0].id, 5)
    assert [each.expires for each in stored.secrets] == [None, int(NOW) + DAY]
    again = key_changes.rotate(later, "a", key(3), NOW + 10, keep_seconds=2 * DAY, expires=msgspec.UNSET)
    assert [each.expires for each in again.keys[0].secrets] == [None, int(NOW) + 10 + 2 * DAY, int(NOW) + DAY]
    assert not key_changes.holds(key_changes.rotate(again, "a", key(4), NOW, expires=msgspec.UNSET), key(2))


def test_rotation_never_prolongs_the_old_key_and_keeps_its_end() -> None:
    file = one(expires=int(NOW) + 10)
    [stored] = key_changes.rotate(file, "a", key(2), NOW, keep_seconds=DAY, expires=msgspec.UNSET).keys
    assert [each.expires for each in stored.secrets] == [int(NOW) + 10] * 2
    [stored] = key_changes.rotate(file, "a", key(2), NOW, expires=int(NOW) + DAY).keys
    assert [each.expires for each in stored.secrets] == [int(NOW) + DAY]
    with pytest.raises(RefusedChange, match=r"expired on .*--expires"):
        key_changes.rotate(file, "a", key(2), NOW + 11, expires=msgspec.UNSET)


def test_many_rotations_stay_a_file_that_can_be_read() -> None:
    file = one()
    for number in range(2, 30):
        file = key_changes.rotate(file, "a", key(number), NOW, keep_seconds=DAY, expires=msgspec.UNSET)
    assert len(file.keys[0].secrets) == key_changes.MOST_SECRETS
    assert read_keys(write_keys(file)) == file


def test_an_update_changes_what_is_given_alone() -> None:
    file = one(requests_per_minute=5, models=("x",))
    changed = key_changes.update(file, "a", {"requests_per_minute": None, "name": "b"}, NOW, expires=msgspec.UNSET)
    [stored] = changed.keys
    assert (stored.name, stored.requests_per_minute, stored.models) == ("b", None, ("x",))
    assert (stored.id, stored.secrets, stored.created) == (file.keys[0].id, file.keys[0].secrets, int(NOW))
    [stored] = key_changes.update(file, "a", {}, NOW, expires=int(NOW) + 5).keys
    assert stored.secrets[0].expires == int(NOW) + 5
    two = key_changes.create(file, policy("b", 1), key(2), NOW, None)
    with pytest.raises(RefusedChange, match="called b already"):
        key_changes.update(two, "a", {"name": "b"}, NOW, expires=msgspec.UNSET)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"scopes": ["generat"]}, "scopes"),
        ({"priority": "0"}, "priority"),
        ({"requests_per_minute": "many"}, "requests_per_minute"),
        ({"name": "a b"}, "name"),
        ({"models": [""]}, "models"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, object], field: str) -> None:
    with pytest.raises(RefusedChange) as refused:
        key_changes.policy_of({"id": "k-1", "name": "a", **fields})
    assert refused.value.field == field


def test_old_secrets_go_but_an_expired_key_stays() -> None:
    file = key_changes.rotate(one(), "a", key(2), NOW, keep_seconds=10, expires=int(NOW) + 20)
    assert len(key_changes.tidied(file, NOW + 5).keys[0].secrets) == 2
    for later in (NOW + 15, NOW + 25):
        tidy = key_changes.tidied(file, later)
        assert key_changes.holds(tidy, key(2))
        assert not key_changes.holds(tidy, key(1))


def test_the_first_key_may_do_everything() -> None:
    text, file = key_changes.first_file(b"x" * 32, b"y" * 6, NOW)
    [stored] = file.keys
    assert (stored.name, stored.scopes, stored.models) == ("first", tuple(Scope), ("*",))
    assert key_changes.holds(file, text)
    assert key_changes.last_expiry(stored) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90d", int(NOW) + 90 * DAY),
        (" 12H ", int(NOW) + DAY // 2),
        ("2w", int(NOW) + 14 * DAY),
        ("never", None),
        ("2030-01-01", 1893456000),
        ("2030-01-01T01:00+01:00", 1893456000),
    ],
)
def test_times(text: str, expected: int | None) -> None:
    assert key_changes.parse_expiry(text, NOW) == expected


@pytest.mark.parametrize(
    "text", ["", "90", "d", "-5d", "0d", "999999999w", "1.5d", "2020-01-01", "soon", "9999999-01-01"]
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(RefusedChange):
        key_changes.parse_expiry(text, NOW)
