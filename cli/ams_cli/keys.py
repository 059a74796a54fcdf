"""`ams keys`: API keys in a file of this machine, or in the Secret of a cluster.

The key alone goes to the standard output, once; every word about it to the standard error.
"""

import argparse
import asyncio
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from ams_common import key_changes
from ams_common.key_changes import RefusedChange
from ams_common.keys import DEFAULT_PRIORITY, KeyFile, Policy, Scope, StoredKey
from ams_common.options import add_flags, flag_name

from ams_cli.key_file import FileStore, write_secret
from ams_cli.settings import KeysSettings, keys_file
from ams_cli.tables import columns

if TYPE_CHECKING:
    from ams_cli.key_secret import SecretStore

_LIMITS = ("requests_per_minute", "tokens_per_minute", "concurrent_requests", "monthly_tokens")
_OPTIONS = {"concurrent_requests": "--concurrent"}
_NO_LIMIT = ("none", "unlimited")
_HASH_DIGITS = 8
_READ_AGAIN = "Gateways know it within 2 s."


class KeysError(Exception):
    """`ams keys` can't do it: what it was given is wrong, or doesn't fit what is there. The message is a sentence."""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    keys = commands.add_parser(
        "keys",
        help="make, list, change, rotate and revoke API keys",
        description="API keys of a gateway of this machine, in --keys-file, or with -k of a cluster's, in their Secret."
        " What is kept of a key is its sha256. Running gateways follow changes within 2 seconds.",
    )
    actions = keys.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser(
        "create",
        help="make a key and print it, once",
        description="The key alone goes to the standard output: KEY=$(ams keys create --name team-a)",
    )
    create.add_argument("--name", required=True, help="whose key it is: letters, digits and . _ @ / -")
    _add_policy(create)
    create.add_argument(
        "--if-none", action="store_true", help="only if there is no key at all yet; otherwise do nothing"
    )
    _add_save(create)
    listing = actions.add_parser("list", help="keys with their policies, never the keys themselves")
    listing.add_argument("-o", "--output", choices=("table", "json"), default="table", help="format of the output")
    update = actions.add_parser("update", help="change the policy of a key", description="What isn't given stays.")
    update.add_argument("key", metavar="NAME", help="name or id of the key")
    update.add_argument("--name", help="another name")
    _add_policy(update)
    rotate = actions.add_parser(
        "rotate",
        help="a new key in place of an old one, under the same name, id and policy",
        description="Prints the new key. Limits, budget and usage go on as they were.",
    )
    rotate.add_argument("key", metavar="NAME", help="name or id of the key")
    rotate.add_argument("--keep", default="0", help="how long the old key still opens, as in 24h (default 0)")
    rotate.add_argument("--expires", help="until when the new key opens; default: as the old one")
    _add_save(rotate)
    revoke = actions.add_parser("revoke", help="take keys away, at once and for good")
    revoke.add_argument("key", metavar="NAME", nargs="+", help="name or id of a key")
    for parser in (create, listing, update, rotate, revoke):
        add_flags(parser, KeysSettings)
        parser.add_argument("-k", "--kubernetes", action="store_true", help="the Secret of kubectl's current context")
        parser.add_argument("-n", "--namespace", help="with -k: the release's namespace")
        parser.add_argument("--secret", help="with -k: name of the Secret, where the release doesn't tell it")


def _add_policy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", help="models it may use, separated by commas; * is any text (default *)")
    parser.add_argument("--scopes", help=f"what it is for, of {', '.join(Scope)} (default {Scope.GENERATE})")
    parser.add_argument("--requests-per-minute", metavar="N", help="requests a minute; none: no limit")
    parser.add_argument("--tokens-per-minute", metavar="N", help="tokens of prompts and answers a minute")
    parser.add_argument("--concurrent", dest="concurrent_requests", metavar="N", help="requests at one time")
    parser.add_argument("--monthly-tokens", metavar="N", help="tokens a calendar month (UTC)")
    parser.add_argument(
        "--priority",
        metavar="N",
        help=f"its share of a busy model, beside others' (1 to 1000, default {DEFAULT_PRIORITY})",
    )
    parser.add_argument("--expires", help="90d, 12h, a date such as 2027-01-31, or never (default never)")


def _add_save(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--save-key", metavar="FILE", help="write the key there, for its owner alone, and don't print it"
    )


def run(arguments: argparse.Namespace, settings: KeysSettings, environment: Mapping[str, str]) -> None:
    """The command of `arguments`. KeysError for what was given, StoreError for where the keys are kept."""
    if not arguments.kubernetes and (arguments.namespace or arguments.secret):
        raise KeysError("-n and --secret are for -k")
    if arguments.kubernetes and arguments.keys_file:  # as a flag: a variable may be there for other commands
        raise KeysError("--keys-file is for this machine: leave it out, or -k")
    save = getattr(arguments, "save_key", None)
    if save is not None and os.path.lexists(Path(save).expanduser()) and not getattr(arguments, "if_none", False):
        raise KeysError(f"--save-key={save!r}: there is such a file already; name another one")

    async def act() -> None:
        async with _store(arguments, settings, environment) as store:
            match arguments.action:
                case "create":
                    await _create(store, arguments)
                case "list":
                    await _list(store, arguments.output)
                case "update":
                    await _update(store, arguments)
                case "rotate":
                    await _rotate(store, arguments)
                case _:
                    await _revoke(store, arguments.key)

    try:
        asyncio.run(act())
    except RefusedChange as error:
        option = _OPTIONS.get(error.field, flag_name(error.field)) if error.field else ""
        raise KeysError(f"{option}: {error}" if option else str(error)) from None


@asynccontextmanager
async def _store(
    arguments: argparse.Namespace, settings: KeysSettings, environment: Mapping[str, str]
) -> "AsyncIterator[FileStore | SecretStore]":
    if not arguments.kubernetes:
        yield FileStore(keys_file(settings.keys_file, environment))
        return
    from ams_cli.key_secret import secret_store

    async with secret_store(arguments.namespace, arguments.secret) as store:
        yield store


async def _create(store: "FileStore | SecretStore", arguments: argparse.Namespace) -> None:
    now = time.time()
    expires = None if arguments.expires is None else key_changes.parse_expiry(arguments.expires, now)
    fields = {"id": key_changes.new_id(secrets.token_bytes(key_changes.ID_BYTES)), "name": arguments.name}
    policy = key_changes.policy_of(fields | _policy_fields(arguments))
    key = key_changes.new_key(secrets.token_bytes(key_changes.KEY_BYTES))

    def make(file: KeyFile) -> KeyFile:
        if arguments.if_none and file.keys:
            return file
        made = key_changes.create(key_changes.tidied(file, now), policy, key, now, expires)
        _save(arguments, key)
        return made

    file = await store.change(make)
    if not key_changes.holds(file, key):
        _say(f"{store.where} has {len(file.keys)} {'key' if len(file.keys) == 1 else 'keys'} already: none was made.")
        return
    until = f"until {key_changes.day(expires)}" if expires is not None else "for ever"
    _tell_stored(store)
    _say(f"{policy.name} ({policy.id}) opens {_what(policy)} {until}. Kept in {store.where}. {_READ_AGAIN}")
    _hand_out(arguments, key)


async def _rotate(store: "FileStore | SecretStore", arguments: argparse.Namespace) -> None:
    now = time.time()
    keep = 0 if arguments.keep.strip() == "0" else key_changes.parse_duration(arguments.keep)
    expires: Any = msgspec.UNSET
    if arguments.expires is not None:
        expires = key_changes.parse_expiry(arguments.expires, now)
    key = key_changes.new_key(secrets.token_bytes(key_changes.KEY_BYTES))

    def make(file: KeyFile) -> KeyFile:
        tidy = key_changes.tidied(file, now)
        made = key_changes.rotate(tidy, arguments.key, key, now, keep_seconds=keep, expires=expires)
        _save(arguments, key)
        return made

    stored = key_changes.find(await store.change(make), arguments.key)
    old = f"The old key opens until {key_changes.day(int(now) + keep)}." if keep else "The old key opens nothing more."
    _tell_stored(store)
    _say(f"{stored.name} ({stored.id}) has a new key. {old} {_READ_AGAIN}")
    _hand_out(arguments, key)


async def _update(store: "FileStore | SecretStore", arguments: argparse.Namespace) -> None:
    now = time.time()
    fields = _policy_fields(arguments)
    if arguments.name is not None:
        fields["name"] = arguments.name
    expires: Any = msgspec.UNSET
    if arguments.expires is not None:
        expires = key_changes.parse_expiry(arguments.expires, now)
    if not fields and arguments.expires is None:
        raise KeysError("nothing to change: give --models, --scopes, a limit, --priority, --expires or --name")

    def make(file: KeyFile) -> KeyFile:
        return key_changes.update(key_changes.tidied(file, now), arguments.key, fields, now, expires=expires)

    stored = key_changes.find(await store.change(make), arguments.name or arguments.key)
    _tell_stored(store)
    _say(f"{stored.name} ({stored.id}) opens {_what(stored)}. {_READ_AGAIN}")


async def _revoke(store: "FileStore | SecretStore", names: list[str]) -> None:
    now = time.time()
    file = await store.change(lambda file: key_changes.revoke(key_changes.tidied(file, now), names))
    _tell_stored(store)
    _say(
        f"Revoked: {', '.join(dict.fromkeys(names))}. Gateways refuse {'it' if len(names) == 1 else 'them'} within 2 s."
    )
    if not file.keys:
        _say("There are no keys left: gateways refuse every request that needs one.")


async def _list(store: "FileStore | SecretStore", output: str) -> None:
    file = await store.read()
    if output == "json":
        told = [told_of(each) for each in (file or KeyFile()).keys]
        print(msgspec.json.format(msgspec.json.encode({"keys": told})).decode())
    elif file is None:
        _say(f"{store.where} isn't there: no keys are configured.")
    elif not file.keys:
        _say(f"{store.where} has no keys: gateways refuse every request that needs one.")
    else:
        print(table(file, time.time()))


def told_of(stored: StoredKey) -> dict[str, Any]:
    """A key for programs: its policy, and of each secret the beginning of its sha256."""
    told = {field: msgspec.to_builtins(getattr(stored, field)) for field in Policy.__struct_fields__}
    opens = [{"sha256": each.sha256[:_HASH_DIGITS], "expires": each.expires} for each in stored.secrets]
    return {**told, "created": stored.created, "secrets": opens}


def table(file: KeyFile, now: float) -> str:
    head = ("NAME", "ID", "MODELS", "SCOPES", "LIMITS", "PRIORITY", "EXPIRES", "CREATED", "SHA256")
    return columns([head, *(_row(each, now) for each in sorted(file.keys, key=lambda each: each.name))])


def _row(stored: StoredKey, now: float) -> tuple[str, ...]:
    return (
        stored.name,
        stored.id,
        ",".join(stored.models),
        ",".join(stored.scopes),
        _limits(stored) or "none",
        str(stored.priority),
        _expiry(stored, now),
        key_changes.day(stored.created)[:10] if stored.created else "",
        ",".join(f"{secret.sha256[:_HASH_DIGITS]}…" for secret in stored.secrets),
    )


def _limits(policy: Policy) -> str:
    told = (
        (policy.requests_per_minute, "requests/min"),
        (policy.tokens_per_minute, "tokens/min"),
        (policy.concurrent_requests, "at once"),
        (policy.monthly_tokens, "tokens/month"),
    )
    return ", ".join(f"{limit:,} {what}" for limit, what in told if limit is not None)


def _expiry(stored: StoredKey, now: float) -> str:
    last = key_changes.last_expiry(stored)
    if last is None:
        return "never"
    return f"{'expired ' if last <= now else ''}{key_changes.day(last)}"


def _what(policy: Policy) -> str:
    models = "all models" if "*" in policy.models else ", ".join(policy.models)
    limits = _limits(policy)
    return f"{models} for {', '.join(policy.scopes)}{f', at most {limits}' if limits else ''}"


def _policy_fields(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fields of a Policy that were given."""
    fields: dict[str, Any] = {}
    for name in ("models", "scopes"):
        if (text := getattr(arguments, name)) is not None:
            fields[name] = tuple(dict.fromkeys(item.strip() for item in text.split(",") if item.strip()))
            if not fields[name]:
                raise RefusedChange("expected names, separated by commas", name)
    for name in _LIMITS:
        if (text := getattr(arguments, name)) is not None:
            fields[name] = None if text.strip().lower() in _NO_LIMIT else text.replace("_", "")
    if arguments.priority is not None:
        fields["priority"] = arguments.priority
    return fields


def _save(arguments: argparse.Namespace, key: str) -> None:
    """Before the key is kept: one that nobody has shall not open anything."""
    if arguments.save_key is not None:
        write_secret(Path(arguments.save_key).expanduser(), key)


def _hand_out(arguments: argparse.Namespace, key: str) -> None:
    if arguments.save_key is not None:
        _say(f"The key is in {arguments.save_key}.")
        return
    _say("Here is the key; it is shown only now:")
    print(key, flush=True)


def _tell_stored(store: "FileStore | SecretStore") -> None:
    if getattr(store, "made", False):
        _say(f"Made {store.where}.")
    if getattr(store, "forgot_first_key", False):
        _say(f"Its entry {key_changes.FIRST_KEY_ENTRY} is removed: that key opens nothing any more.")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
