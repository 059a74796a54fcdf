"""What an answer of a Hugging Face hub means for a model: the sentences that operator, `ams plan` and pod say alike."""

import re

from ams_common.progress import Failure
from ams_common.reasons import Reason

_COMMIT_DIGITS = 40
_PIN = re.compile(r"[0-9a-f]{7,40}")
_GIVE_TOKEN = "give a token (spec.model.tokenSecretRef, or HF_TOKEN)"


def hub_answered(
    status: int, code: str | None, message: str | None, *, repository: str, revision: str | None, hub: str, token: bool
) -> Failure:
    """The failure that an error status stands for.

    `code` and `message` are the headers X-Error-Code and X-Error-Message; `token` is whether the request had one.
    """
    page = f"{hub.rstrip('/')}/{repository}"
    if code == "GatedRepo":
        return gated(repository, hub=hub, token=token)
    if code == "RevisionNotFound":
        sentence = f"{repository} has no revision {revision or 'main'!r}; see {page}/refs for what it has."
        return Failure(Reason.REVISION_NOT_FOUND, sentence)
    if status == 401 and token and code != "RepoNotFound":
        return Failure(Reason.BAD_TOKEN, f"The hub refused the token (401) for {repository}; give one that is valid.")
    if code == "EntryNotFound":
        sentence = f"A file of {repository} at {revision} is listed but can't be fetched (404)."
        return Failure(Reason.MODEL_NOT_FOUND, sentence)
    if status in (401, 404) or message == "Access to this resource is disabled.":
        step = "the token's account may lack access" if token else f"a private model needs a token; {_GIVE_TOKEN}"
        sentence = f"Model {repository} doesn't exist on the hub, or you have no access: check the name; {step}."
        return Failure(Reason.MODEL_NOT_FOUND, sentence)
    if status == 403:
        step = "give a token with read access to it" if token else _GIVE_TOKEN
        return Failure(Reason.BAD_TOKEN, f"The hub refuses access to {repository} (403); {step}.")
    if status == 429:
        more = "" if token else ", and a token raises the limit"
        sentence = f"The hub limits the rate of requests (429) for {repository}; the next try is later{more}."
        return Failure(Reason.HUB_RATE_LIMITED, sentence, retryable=True)
    if status >= 500 or status == 408:
        sentence = f"The hub at {hub} failed ({status}) for {repository}; try again later."
        return Failure(Reason.HUB_UNREACHABLE, sentence, retryable=True)
    return Failure(Reason.HUB_REFUSED, f"The hub at {hub} refused the request ({status}) for {repository}.")


def other_commit(repository: str, revision: str | None, commit: str) -> Failure | None:
    """The failure of a pinned revision that the hub resolves to another commit; None where it may be this one.

    A revision of 40 hexadecimal digits is a commit. One of 7 to 39 abbreviates a commit if it has digits and letters:
    of digits alone, or of letters alone, it may be the name of a tag or branch.
    """
    pin = (revision or "").lower()
    is_pin = _PIN.fullmatch(pin) and (len(pin) == _COMMIT_DIGITS or not (pin.isdigit() or pin.isalpha()))
    if not is_pin or commit.startswith(pin):
        return None
    sentence = (
        f"{repository} is pinned to commit {revision}, but the hub answers with commit {commit}; nothing is used."
    )
    return Failure(Reason.REVISION_NOT_FOUND, sentence)


def gated(repository: str, *, hub: str, token: bool) -> Failure:
    """The model asks for consent first. `token` is whether the request had one."""
    page = f"{hub.rstrip('/')}/{repository}"
    if token:
        step = f"the token's account has no access yet: request it at {page} and wait until it is granted"
    else:
        step = f"accept its terms at {page} and {_GIVE_TOKEN}"
    return Failure(Reason.GATED_MODEL, f"{repository} is gated: {step}.")


def hub_unreachable(hub: str, cause: str) -> Failure:
    """No usable answer: no connection, a cut one, or a time-out."""
    sentence = f"The hub at {hub} can't be reached ({cause}); check the network, proxy and HF_ENDPOINT."
    return Failure(Reason.HUB_UNREACHABLE, sentence, retryable=True)
