"""Which rung of the memory ladder comes next."""

import pytest
from ams_pod.engines.builtin.scheduler.ladder import OomSituation, next_rung, parse_fallbacks
from ams_pod.engines.port import LoadFailed

ALL = ("cpu", "text-only", "simplified")


def situation(others=False, streamed=False, text=True, cpu=True, tried=()):
    return OomSituation(others, streamed, text, cpu, frozenset(tried))


@pytest.mark.parametrize(
    ("fallbacks", "given", "rung"),
    [
        (ALL, situation(others=True), "shrink"),
        ((), situation(others=True), "shrink"),
        (ALL, situation(others=True, tried=["shrink"]), "shrink"),
        (ALL, situation(), "cpu"),
        (ALL, situation(tried=["shrink"]), "cpu"),
        (ALL, situation(cpu=False), "text-only"),
        (ALL, situation(tried=["cpu"]), "text-only"),
        (ALL, situation(cpu=False, text=False), "simplified"),
        (ALL, situation(tried=["cpu", "text-only"]), "simplified"),
        (ALL, situation(tried=ALL), "refused"),
        (ALL, situation(streamed=True), "cpu"),
        (ALL, situation(streamed=True, cpu=False), "refused"),
        (("text-only",), situation(text=False), "refused"),
        (("simplified", "cpu"), situation(), "simplified"),
        (("text-only", "cpu"), situation(), "text-only"),
        ((), situation(), "refused"),
    ],
)
def test_the_next_rung(fallbacks, given, rung):
    assert next_rung(fallbacks, given) == rung


def test_fallbacks_are_names_separated_by_commas():
    assert parse_fallbacks("cpu,text-only,simplified") == ALL
    assert parse_fallbacks(" simplified , cpu") == ("simplified", "cpu")
    assert parse_fallbacks("") == ()
    with pytest.raises(LoadFailed, match="fallbacks: 'gpu' is none of cpu, text-only, simplified"):
        parse_fallbacks("cpu,gpu")
