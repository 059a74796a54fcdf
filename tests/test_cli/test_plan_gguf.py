"""What `ams plan` tells of a GGUF file before it is fetched or converted."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ams_cli import engines
from ams_cli.plan import Machine, Plan, make_plan, on_machine, remarks
from ams_cli.preview import Preview, look, of_folder
from ams_cli.preview_gguf import NoGguf, read_first_bytes, read_head
from fakehub.repository import Repository
from fakehub.server import FakeHub
from fakehub.tiny_gguf import convert, make_gguf
from test_cli.test_plan import of_hub, resource

pytest_plugins = ["fakehub.fixtures"]
__all__ = ["of_hub"]

GIB = 1 << 30
LLAMA_SERVER = engines.Machine({"llamacpp": "/usr/bin/llama-server"})


def planned(*previews: Preview, disk: int | None = None, has: engines.Machine = LLAMA_SERVER) -> Plan:
    return make_plan(previews, on_machine(Machine(8 * GIB)), disk, has)


@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0", "F16"])
def test_a_local_file_is_told_as_the_folder_that_it_becomes(kind: str, tmp_path: Path) -> None:
    file = make_gguf(tmp_path / "m.gguf", kind=kind, architecture="qwen3")
    before = look(resource(source=f"file://{file}"), tmp_path / "models")
    folder = convert(file)
    after = of_folder(resource(), folder)
    (first,), (later,) = planned(before).models, planned(after).models
    told = (first.family, first.quantization, first.memory_bytes)
    assert told == (later.family, later.quantization, pytest.approx(later.memory_bytes, rel=0.05))
    assert first.family == "text"
    assert first.parameters == pytest.approx(later.parameters, rel=0.05)
    assert (first.download_bytes, before.weights_bytes) == (0, pytest.approx(after.weights_bytes, rel=0.05))
    assert first.converted_bytes == before.weights_bytes
    assert not (tmp_path / "models").exists()


def test_a_file_of_the_hub_is_told_by_its_head(of_hub: FakeHub, tmp_path: Path) -> None:
    file = make_gguf(tmp_path / "q4.gguf", kind="Q4_1")
    of_hub.add(Repository("acme/m")).commit({"q4.gguf": file.read_bytes()})
    found = look(resource(source="hf://acme/m?file=q4.gguf"), tmp_path / "models")
    local = look(resource(source=f"file://{file}"), tmp_path / "models")
    assert (found.config, found.weights_bytes) == (local.config, local.weights_bytes)
    (row,) = planned(found).models
    assert (row.family, row.fits, set(row.memory_bytes)) == ("text", True, {"none", "4bit"})
    assert row.download_bytes == file.stat().st_size


def test_no_more_is_fetched_than_the_head(tmp_path: Path) -> None:
    path = make_gguf(tmp_path / "m.gguf", kind="Q4_1", settings={"vocab": "x" * 3_000_000})
    data, taken = path.read_bytes(), 0

    def pieces() -> Iterator[bytes]:
        nonlocal taken
        for start in range(0, 1 << 40, 1 << 18):
            taken += 1 << 18
            yield data[start : start + (1 << 18)].ljust(1 << 18, b"\0")

    size = 1 << 40
    head = read_first_bytes(pieces(), "m.gguf", size)
    assert "setting vocab" in head.refusal  # it was read to its end
    assert 3_000_000 < taken < 6_000_000
    assert head.parameters == read_head(path, "m.gguf").parameters


@pytest.mark.parametrize("size", [10, 5_000_000])
def test_a_head_without_an_end_is_given_up(size: int) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"GGUF" + (3).to_bytes(4, "little") + bytes(8) + (1).to_bytes(8, "little")
        yield (size + (1 << 40)).to_bytes(8, "little")
        while True:
            yield bytes(1 << 20)

    with pytest.raises(NoGguf):
        read_first_bytes(pieces(), "m.gguf", 1 << 41)


def test_a_file_of_the_hub_that_is_none_is_left_to_the_download(of_hub: FakeHub, tmp_path: Path) -> None:
    of_hub.add(Repository("acme/m")).commit({"q4.gguf": b"x" * 5000})
    found = look(resource(source="hf://acme/m?file=q4.gguf"), tmp_path / "models")
    assert (found.problem, found.weights_bytes, found.config) == ("", 5000, {})


def test_a_head_that_comes_too_slowly_is_not_waited_for(
    of_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = make_gguf(tmp_path / "q4.gguf", kind="Q4_1", settings={"vocab": "x" * 9_000_000})
    of_hub.add(Repository("acme/m")).commit({"q4.gguf": file.read_bytes()})
    given = resource(source="hf://acme/m?file=q4.gguf")
    assert "can't be converted" in look(given, tmp_path / "models").unsupported
    monkeypatch.setattr("ams_cli.preview._PATIENCE_SECONDS", 0.0)
    found = look(given, tmp_path / "models")
    assert (found.weights_bytes, found.config, found.unknown) == (file.stat().st_size, {}, "")


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (lambda path: None, "m.gguf can't be read: No such file or directory."),
        (lambda path: path.write_bytes(b"GGUF"), "m.gguf is not a GGUF file that can be read: it ends too early."),
        (lambda path: path.write_bytes(b""), "m.gguf is not a GGUF file that can be read: it has no magic number"),
    ],
)
def test_a_local_file_that_is_none(made: Any, problem: str, tmp_path: Path) -> None:
    made(tmp_path / "m.gguf")
    found = look(resource(source=f"file://{tmp_path}/m.gguf"), tmp_path / "models")
    assert problem in found.problem
    assert planned(found).models[0].fits is False


def test_what_can_not_be_converted_is_told_and_another_engine_takes_it(tmp_path: Path) -> None:
    file = make_gguf(tmp_path / "m.gguf", kind="Q4_1", settings={"attention.clamp_kqv": 8.0})
    given = resource(source=f"file://{file}")
    (row,) = planned(look(given, tmp_path / "models"), has=engines.Machine({})).models
    assert row.fits is False
    assert "m.gguf can't be converted: " in row.verdict
    assert "Take the engine llamacpp" in row.verdict
    other = resource(source=f"file://{file}", engine={"name": "llamacpp"})
    (row,) = planned(look(other, tmp_path / "models", "llamacpp")).models
    assert (row.fits, row.family, row.converted_bytes) == (True, None, 0)


def test_another_engine_takes_the_file_as_it_is(tmp_path: Path) -> None:
    file = make_gguf(tmp_path / "m.gguf", kind="Q4_1")
    given = resource(source=f"file://{file}", engine={"name": "llamacpp"})
    (row,) = planned(look(given, tmp_path / "models", "llamacpp")).models
    assert (row.family, row.download_bytes, row.converted_bytes) == ("text", 0, 0)
    assert row.disk_bytes == file.stat().st_size
    assert "in GGUF" in row.verdict


def test_the_disk_has_room_for_what_is_converted(tmp_path: Path) -> None:
    file = make_gguf(tmp_path / "m.gguf", kind="Q4_1")
    found = look(resource(source=f"file://{file}"), tmp_path / "models")
    small, large = planned(found, disk=1000), planned(found, disk=1 << 30)
    assert (small.disk_fits, large.disk_fits) == (False, True)
    assert "of converted GGUF files don't fit /models" in remarks(small, "/models")[-1]
    assert "of converted GGUF files fit /models" in remarks(large, "/models")[-1]


@pytest.mark.parametrize("at", ["hub", "here"])
def test_a_file_that_makes_embeddings_is_for_the_engine_that_reads_it(at: str, of_hub: FakeHub, tmp_path: Path) -> None:
    file = make_gguf(tmp_path / "q.gguf", architecture="qwen3", settings={"pooling_type": 3})
    of_hub.add(Repository("acme/m")).commit({"q.gguf": file.read_bytes()})
    given = resource(source="hf://acme/m?file=q.gguf" if at == "hub" else f"file://{file}")
    (row,) = planned(look(given, tmp_path / "models")).models
    assert (row.family, row.engine, row.fits, row.converted_bytes) == ("embedding", "llamacpp", True, 0)
    (row,) = planned(look(given, tmp_path / "models"), has=engines.Machine({})).models
    assert (row.engine, row.fits) == ("builtin", False)
    assert "it holds a model that makes embeddings" in row.verdict
