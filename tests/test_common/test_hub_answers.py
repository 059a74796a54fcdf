"""What people read of a hub's answer: a table of cases."""

import pytest
from ams_common.hub_answers import hub_answered


@pytest.mark.parametrize(
    ("status", "code", "words", "token", "reason", "retryable", "advice"),
    [
        (401, "GatedRepo", "restricted", False, "GatedModel", False, "accept its terms at https://hub.example/acme/m"),
        (
            403,
            "GatedRepo",
            "not in the authorized list",
            True,
            "GatedModel",
            False,
            "request it at https://hub.example/acme/m",
        ),
        (401, None, "Invalid credentials in Authorization header", True, "BadToken", False, "valid"),
        (403, None, None, True, "BadToken", False, "read access"),
        (403, None, None, False, "BadToken", False, "give a token"),
        (401, None, "Invalid username or password.", False, "ModelNotFound", False, "check the name"),
        (404, "RepoNotFound", "Repository not found", True, "ModelNotFound", False, "may lack access"),
        (404, "RevisionNotFound", "Invalid rev id", False, "RevisionNotFound", False, "no revision 'v1'"),
        (404, "EntryNotFound", "Entry not found", False, "ModelNotFound", False, "listed but"),
        (403, None, "Access to this resource is disabled.", False, "ModelNotFound", False, "check the name"),
        (429, None, None, False, "HubRateLimited", True, "a token raises the limit"),
        (500, None, None, False, "HubUnreachable", True, "later"),
        (503, None, None, False, "HubUnreachable", True, "later"),
        (408, None, None, False, "HubUnreachable", True, "later"),
        (418, None, None, False, "HubRefused", False, "418"),
    ],
)
def test_an_answer_becomes_a_reason_and_advice(
    status: int, code: str | None, words: str | None, token: bool, reason: str, retryable: bool, advice: str
) -> None:
    failure = hub_answered(
        status, code, words, repository="acme/m", revision="v1", hub="https://hub.example", token=token
    )
    assert (failure.reason, failure.retryable) == (reason, retryable)
    assert advice in failure.message
    assert "acme/m" in failure.message
