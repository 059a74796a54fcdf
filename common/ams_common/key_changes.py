"""What is done with keys: made, revoked, rotated, changed. Each is a function from one KeyFile to the next.

Time is Unix time in seconds. Chance comes in as bytes: `KEY_BYTES` for a key, `ID_BYTES` for an id.
"""

import re
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from ams_common.keys import (
    MOST_KEYS,
    PREFIX,
    InvalidKeys,
    KeyFile,
    Policy,
    Scope,
    Secret,
    StoredKey,
    check,
    hash_of,
    is_name,
)
from ams_common.parsing import explain, with_choices

KEYS_ENTRY = "keys.json"  # of a Secret: the KeyFile
FIRST_KEY_ENTRY = "first-key"  # of a Secret: the key itself that was made with it, for who may read Secrets
FIRST_KEY = "first"  # its name

KEY_BYTES = 32
ID_BYTES = 6
MOST_SECRETS = 8

_DURATION = re.compile(r"(\d{1,9}) ?([smhdw])").fullmatch
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_LONGEST_SECONDS = 100 * 366 * 86400


class RefusedChange(ValueError):
    """A change of keys that can't be made; the message is a clause that ends no sentence, and holds no secret.

    `field` is that of the policy which is wrong, if it is one.
    """

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


def new_key(random: bytes) -> str:
    """The text of a key, `ams-key-` and 43 characters."""
    assert len(random) == KEY_BYTES
    return PREFIX + urlsafe_b64encode(random).rstrip(b"=").decode()


def new_id(random: bytes) -> str:
    assert len(random) == ID_BYTES
    return f"k-{random.hex()}"


def policy_of(fields: dict[str, Any]) -> Policy:
    """A policy of fields as they are written in a file. RefusedChange names the field that is wrong."""
    if unknown := [each for each in fields.get("scopes", ()) if each not in list(Scope)]:
        raise RefusedChange(f"there is no scope {unknown[0][:50]!r}; there are {', '.join(Scope)}", "scopes")
    if not is_name(str(fields.get("name", "-"))):
        raise RefusedChange(f"{str(fields['name'])[:100]!r}: use letters, digits and . _ @ / -", "name")
    try:
        return msgspec.convert(fields, Policy, strict=False)
    except msgspec.ValidationError as error:
        path, sentence = explain(error)
        field = path.partition("[")[0].partition(".")[0]
        raise RefusedChange(with_choices(sentence, Policy, path).removesuffix(", got str"), field) from None


def create(file: KeyFile, policy: Policy, key: str, now: float, expires: int | None) -> KeyFile:
    """With a new key. RefusedChange if its name or id is taken, or is none."""
    if any(each.name == policy.name for each in file.keys):
        raise RefusedChange(f"there is a key called {policy.name} already; rotate it, or choose another name")
    if len(file.keys) >= MOST_KEYS:
        raise RefusedChange(f"there are {MOST_KEYS:,} keys, the most that there may be; revoke some")
    if not policy.scopes:
        raise RefusedChange("a key needs a scope")
    secrets = (Secret(sha256=hash_of(key), expires=_ahead(expires, now)),)
    made = StoredKey(**msgspec.structs.asdict(policy), secrets=secrets, created=int(now))
    return _checked((*file.keys, made))


def revoke(file: KeyFile, names: Sequence[str]) -> KeyFile:
    """Without the keys of these names or ids."""
    gone = {find(file, name).id for name in names}
    return KeyFile(keys=tuple(each for each in file.keys if each.id not in gone))


def rotate(
    file: KeyFile, name: str, key: str, now: float, *, keep_seconds: int = 0, expires: int | msgspec.UnsetType | None
) -> KeyFile:
    """With a new key in place of that of `name`; the old one opens for `keep_seconds` more, at most until it expires.

    `expires` is of the new key: None for never, UNSET as the old one's.
    """
    stored = find(file, name)
    lasting = last_expiry(stored)
    if expires is msgspec.UNSET:
        if lasting is not None and lasting <= now:
            raise RefusedChange(
                f"{stored.name} expired on {day(lasting)}; say until when its new key opens (--expires)"
            )
        expires = lasting
    until = int(now) + keep_seconds
    old = [
        Secret(sha256=each.sha256, expires=until if each.expires is None else min(until, each.expires))
        for each in stored.secrets
    ]
    kept = [each for each in old if each.expires is not None and each.expires > now]
    made = Secret(sha256=hash_of(key), expires=_ahead(expires, now))
    return _with(file, msgspec.structs.replace(stored, secrets=(made, *kept[: MOST_SECRETS - 1])))


def update(
    file: KeyFile, name: str, fields: dict[str, Any], now: float, *, expires: int | msgspec.UnsetType | None
) -> KeyFile:
    """With other fields of the policy of `name`. `expires` is of its newest key; UNSET leaves it."""
    stored = find(file, name)
    taken = fields.get("name", stored.name)
    if any(each.name == taken and each.id != stored.id for each in file.keys):
        raise RefusedChange(f"there is a key called {taken} already")
    current = {field: getattr(stored, field) for field in Policy.__struct_fields__}
    policy = policy_of({**current, **fields})
    if not policy.scopes:
        raise RefusedChange("a key needs a scope")
    changed = msgspec.structs.replace(stored, **msgspec.structs.asdict(policy))
    if expires is not msgspec.UNSET:
        newest, *others = stored.secrets
        newest = Secret(sha256=newest.sha256, expires=_ahead(expires, now))
        changed = msgspec.structs.replace(changed, secrets=(newest, *others))
    return _with(file, changed)


def find(file: KeyFile, name: str) -> StoredKey:
    """By name, else by id."""
    found = [each for each in file.keys if each.name == name] or [each for each in file.keys if each.id == name]
    if not found:
        names = ", ".join(sorted(each.name for each in file.keys)[:20])
        raise RefusedChange(f"there is no key called {name[:100]!r}; there {f'are: {names}' if names else 'is none'}")
    return found[0]


def tidied(file: KeyFile, now: float) -> KeyFile:
    """Without old secrets that open nothing any more. A key that expired as a whole stays, to be seen and rotated."""
    return KeyFile(keys=tuple(_tidied(each, now) for each in file.keys))


def last_expiry(stored: StoredKey) -> int | None:
    """Until when one of its secrets opens; None for ever."""
    times = [each.expires for each in stored.secrets]
    return None if None in times else max(each for each in times if each is not None)


def holds(file: KeyFile, key: str) -> bool:
    """Whether `key` is one of these, expired or not."""
    sha256 = hash_of(key)
    return any(secret.sha256 == sha256 for each in file.keys for secret in each.secrets)


def first_file(random_key: bytes, random_id: bytes, now: float) -> tuple[str, KeyFile]:
    """The first key, which may do everything, and the file that has it alone."""
    key = new_key(random_key)
    policy = Policy(id=new_id(random_id), name=FIRST_KEY, scopes=tuple(Scope))
    return key, create(KeyFile(), policy, key, now, None)


def parse_expiry(text: str, now: float) -> int | None:
    """Unix time of `90d`, `12h`, `2027-01-31` or `2027-01-31T12:00` (UTC unless it says otherwise); None for `never`.

    RefusedChange if it is none of these, or isn't ahead.
    """
    if text.strip().lower() == "never":
        return None
    try:
        return int(now) + parse_duration(text)
    except RefusedChange:
        pass
    try:
        given = datetime.fromisoformat(text.strip())
        when = int((given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        raise RefusedChange(
            f"{text[:50]!r}: expected something like 90d, 12h, 2027-01-31 or never", "expires"
        ) from None
    if when <= now:
        raise RefusedChange(f"{text[:50]!r} is in the past", "expires")
    return when


def parse_duration(text: str) -> int:
    """Seconds of `45s`, `30m`, `12h`, `90d` or `2w`. RefusedChange."""
    found = _DURATION(text.strip().lower())
    seconds = int(found[1]) * _SECONDS[found[2]] if found else 0
    if not 0 < seconds <= _LONGEST_SECONDS:
        raise RefusedChange(f"{text[:50]!r}: expected something like 45s, 30m, 12h, 90d or 2w")
    return seconds


def day(when: int) -> str:
    """A moment as people read it, in UTC."""
    try:
        return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return "a day beyond the calendar"


def _ahead(expires: int | None, now: float) -> int | None:
    if expires is not None and expires <= now:
        raise RefusedChange(f"{day(expires)} is in the past")
    return expires


def _with(file: KeyFile, changed: StoredKey) -> KeyFile:
    return _checked(tuple(changed if each.id == changed.id else each for each in file.keys))


def _checked(keys: tuple[StoredKey, ...]) -> KeyFile:
    file = KeyFile(keys=keys)
    try:
        check(file)
    except InvalidKeys as error:
        raise RefusedChange(f"the result {error}") from None
    return file


def _tidied(stored: StoredKey, now: float) -> StoredKey:
    alive = tuple(each for each in stored.secrets if each.expires is None or each.expires > now)
    if len(alive) == len(stored.secrets):
        return stored
    return msgspec.structs.replace(stored, secrets=alive or stored.secrets[:1])
