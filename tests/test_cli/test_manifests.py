"""Manifest files: what is read, and what a mistake is told."""

import io
import json
from pathlib import Path

import pytest
from ams_cli.manifests import QUICKSTART, ManifestError, load_manifests

EXAMPLES = Path(__file__).parents[2] / "examples"


def model(name: str, *aliases: str, source: str = "hf://a/b") -> str:
    return (
        "apiVersion: aimodelserver.io/v1alpha1\nkind: ModelDeployment\n"
        f"metadata: {{name: {name}}}\nspec: {{model: {{source: '{source}', aliases: {json.dumps(aliases)}}}}}\n"
    )


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def refused(*paths: str) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        load_manifests(paths)
    return str(caught.value).splitlines()


def test_documents_files_and_folders(tmp_path: Path) -> None:
    write(tmp_path, "b.yaml", f"---\n{model('two')}---\n{model('one')}---\n")
    write(tmp_path, "a.yml", model("three"))
    write(tmp_path, "notes.txt", "not: [read")
    single = write(tmp_path.parent, "single.json", json.dumps({"kind": "List", "items": []}))
    read = load_manifests([str(tmp_path)])
    assert [each.metadata.name for each in read.models] == ["one", "three", "two"]
    assert refused(single) == [f"{single}: contains no ModelDeployment"]


def test_a_list_as_kubectl_writes_it(tmp_path: Path) -> None:
    items = "\n".join("- " + model(name).replace("\n", "\n  ") for name in ("one", "two"))
    read = load_manifests([write(tmp_path, "list.yaml", f"kind: List\napiVersion: v1\nitems:\n{items}")])
    assert [each.metadata.name for each in read.models] == ["one", "two"]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(model("one")))
    assert [each.metadata.name for each in load_manifests(["-"]).models] == ["one"]


def test_other_kinds_are_passed_over_in_words(tmp_path: Path) -> None:
    path = write(tmp_path, "m.yaml", f"kind: Secret\n---\n{model('one')}")
    read = load_manifests([path])
    assert read.notes == [f"{path} (document 1): skipped Secret: only ModelDeployment is served here"]


def test_a_mistake_names_file_document_and_path(tmp_path: Path) -> None:
    text = model("one") + "---\n" + model("two").replace("spec: {", "spec: {replicas: 'two', suspended: true, ")
    path = write(tmp_path, "m.yaml", text)
    assert refused(path) == [
        f"{path} (document 2): spec.replicas: expected int, got str",
        f"{path} (document 2): spec.suspended: unknown field; did you mean suspend?",
    ]


def aliases(collection: str, *, pairs: bool = False) -> str:
    """Nine lines that stand for 9 to the 9th values."""
    lines = [f"a0: &a0 {collection.format(', '.join(f'k{n}: x' if pairs else 'x' for n in range(9)))}"]
    for level in range(1, 9):
        parts = (f"k{n}: *a{level - 1}" if pairs else f"*a{level - 1}" for n in range(9))
        lines.append(f"a{level}: &a{level} {collection.format(', '.join(parts))}")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ": contains no ModelDeployment"),
        ("a: [1", " line 1, column 6: expected ',' or ']', but got '<stream end>'"),
        ("a: b: c", " line 1, column 5: mapping values are not allowed here"),
        ("a: 1\nb: 2\na: 3", " line 3, column 1: 'a' is given twice"),
        ("just words", ": expected mapping, got str"),
        ("kind: 7", ": kind: expected ModelDeployment, got int"),
        ("!!python/object:os.system {}", " line 1, column 1: could not determine a constructor"),
        ("\x07", ": unacceptable character #x0007: special characters are not allowed"),
        ("[" * 5_000, " line 1, column 101: nested too deeply"),
        ("[" * 200_000, " line 1, column 101: nested too deeply"),
        ("- " * 5_000, " line 1, column 201: nested too deeply"),
        ("{a: " * 5_000, " line 1, column 398: nested too deeply"),
        ("a: &a [*a]", " line 1, column 4: an alias that refers to itself"),
        ("a: &a {b: [{c: *a}]}", " line 1, column 4: an alias that refers to itself"),
        (aliases("[{}]"), " line 6, column 5: more than 200000 values once its aliases are written out"),
        (aliases("{{{}}}", pairs=True), " line 6, column 5: more than 200000 values once its aliases are written out"),
    ],
)
def test_what_is_no_manifest(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path, "m.yaml", text)
    assert any(line.startswith(f"{path}{words}") for line in refused(path)), refused(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    (tmp_path / "empty").mkdir()
    assert refused(str(tmp_path / "no.yaml")) == [f"{tmp_path}/no.yaml: No such file or directory"]
    assert refused(str(tmp_path / "latin.yaml")) == [f"{tmp_path}/latin.yaml: not UTF-8 text (byte 3)"]
    with (tmp_path / "large.yaml").open("wb") as large:
        large.truncate(1 << 30)
    assert refused(str(tmp_path / "large.yaml")) == [f"{tmp_path}/large.yaml: larger than 16.0 MiB, so not a manifest"]
    assert refused(str(tmp_path / "empty")) == [f"{tmp_path}/empty: the folder contains no .yaml, .yml, .json files"]


def test_a_name_that_two_models_claim(tmp_path: Path) -> None:
    one = write(tmp_path, "1.yaml", model("qwen-vl", "vision"))
    two = write(tmp_path, "2.yaml", model("qwen-vl"))
    three = write(tmp_path, "3.yaml", model("other", "Qwen_VL", "vision"))
    assert refused(one, two, three) == [
        f"{two}: metadata.name: 'qwen-vl' is already qwen-vl in {one}",
        f"{three}: spec.model.aliases[0]: 'Qwen_VL' is already qwen-vl in {one}",
        f"{three}: spec.model.aliases[1]: 'vision' is already qwen-vl in {one}",
    ]


def test_a_date_is_text_as_in_kubernetes(tmp_path: Path) -> None:
    text = model("one").replace("{name: one}", "{name: one, creationTimestamp: 2026-01-01T00:00:00Z}")
    assert (
        load_manifests([write(tmp_path, "m.yaml", text)]).models[0].metadata.creation_timestamp
        == "2026-01-01T00:00:00Z"
    )


def test_the_quickstart_of_the_package_is_the_example() -> None:
    assert QUICKSTART.read_text() == (EXAMPLES / "quickstart.yaml").read_text()
    assert [each.metadata.name for each in load_manifests([str(QUICKSTART)]).models] == ["smollm2"]
