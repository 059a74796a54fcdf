"""Packed weights beside the weights: mapped by later loads, written whole or not at all, and never trusted blindly."""

import gc
import shutil
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ams_common.pod_settings import ServeSettings
from ams_pod.derived import write_derived
from ams_pod.engines.builtin import causal_lm, choosing, compiled
from ams_pod.engines.builtin.causal_lm import CausalLmEngine
from ams_pod.engines.builtin.families import text
from ams_pod.engines.builtin.load_request import LoadRequest
from ams_pod.engines.builtin.memory.placing import Placement
from ams_pod.engines.builtin.model import own_logits
from ams_pod.engines.builtin.model.batch import Batch, Chunk
from ams_pod.engines.builtin.model.native import kept_tiles
from ams_pod.engines.builtin.model.native.kept_tiles import KeptTiles, has_room
from ams_pod.engines.builtin.model.read_ahead import read_ahead
from ams_pod.engines.port import LoadFailed
from ams_pod.volume import VolumeSpace
from fakehub import checkpoints
from torch import Tensor

IDS = [5, 9, 17, 3, 40, 41, 42, 7]
needs_kernels = pytest.mark.skipif(
    compiled.load() is None, reason="the kernels aren't built, or not for this processor (README.md, kernels)"
)


def make(kind: str, folder: Path) -> Path:
    """Of sizes that the kernels know."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "HIDDEN", 128)
        return checkpoints.make(kind, folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("llama", tmp_path_factory.mktemp("tiles") / "llama")


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_tiles, "has_room", lambda folder, size: True)


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "models" / "llama")
    return tmp_path / "models" / "llama"


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done in the background is done at once."""
    monkeypatch.setattr(kept_tiles, "_in_background", lambda work: work())


def load(folder: Path, models: Path | None = None, **more: str) -> CausalLmEngine:
    settings = ServeSettings(
        name="m", source="file:///m", concurrent_requests=2, context_tokens=64,
        models_dir=str(models or folder.parent), **more,
    )  # fmt: skip
    request = LoadRequest(folder, settings, "cpu", torch.bfloat16, lambda events: None, lambda *each: None)
    return text.open_family(request)


def logits(engine: CausalLmEngine) -> Tensor:
    forward = engine.core._forward
    forward.reset()
    read = forward.step(Batch([], [], [], [], [Chunk(0, 0, IDS, True)])).clone()
    return torch.cat((read, forward.step(Batch([0], [11], [len(IDS)], [0], []))))


def is_mapped(engine: CausalLmEngine) -> bool:
    return bool(engine.core._forward._layers._arena.filled)


def tiles(folder: Path) -> Path:
    (path,) = (folder / "derived").glob("tiles-*")
    return path


@needs_kernels
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_mapped_weights_compute_bit_for_bit_what_packed_ones_do(kind: str, tmp_path: Path, settled: None) -> None:
    folder = make(kind, tmp_path / kind)
    first, second, third = load(folder), load(folder), load(folder)
    assert [is_mapped(each) for each in (first, second, third)] == [False, True, True]
    expected = logits(first)
    assert torch.equal(logits(second), expected)
    assert torch.equal(logits(third), expected)
    assert second.info.weights_bytes == first.info.weights_bytes
    assert second.info.parameters == first.info.parameters


@needs_kernels
def test_two_pods_share_a_file_that_a_third_replaces(folder: Path, settled: None) -> None:
    expected = logits(load(folder))
    one, other = load(folder), load(folder)
    content = tiles(folder).read_bytes()
    write_derived(tiles(folder), lambda file: file.write(content))
    tiles(folder).unlink()
    assert torch.equal(logits(one), expected)
    assert torch.equal(logits(other), expected)
    assert not is_mapped(load(folder))
    assert tiles(folder).read_bytes() == content, "it is kept again"


HOSTILE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "half": lambda whole: whole[: len(whole) // 2],
    "longer": lambda whole: whole + b"\0\0",
    "no header": lambda whole: b"\0" * 4096 + whole[4096:],
    "a header of other things": lambda whole: b"[1, 2]".ljust(4096) + whole[4096:],
    "a header that isn't text": lambda whole: b"\xff\xfe".ljust(4096) + whole[4096:],
    "another layout": lambda whole: whole.replace(b'"layout":1', b'"layout":9'),
    "other weights": lambda whole: whole.replace(b'"elements":', b'"elements":1'),
}


@needs_kernels
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_file_that_is_none_is_packed_anew(kind: str, folder: Path, settled: None) -> None:
    expected = logits(load(folder))
    whole = tiles(folder).read_bytes()
    tiles(folder).write_bytes(HOSTILE[kind](whole))
    engine = load(folder)
    assert not is_mapped(engine)
    assert torch.equal(logits(engine), expected)
    assert tiles(folder).read_bytes() == whole


@needs_kernels
@pytest.mark.parametrize("kind", ["zeros", "shuffled"])
def test_weights_that_compute_other_things_are_noticed_before_anybody_is_answered(
    kind: str, folder: Path, settled: None
) -> None:
    expected = logits(load(folder))
    path = tiles(folder)
    whole = path.read_bytes()
    data = whole[4096:]
    path.write_bytes(whole[:4096] + (bytes(len(data)) if kind == "zeros" else data[::-2] + data[::2]))
    engine = load(folder)
    assert not is_mapped(engine)
    assert torch.equal(logits(engine), expected)
    assert path.read_bytes() == whole


@needs_kernels
def test_a_bit_that_no_answer_shows_ends_the_pod_with_a_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(kept_tiles, "_in_background", lambda work: work())
        load(folder)
    path = tiles(folder)
    whole = bytearray(path.read_bytes())
    whole[-100] ^= 1
    path.write_bytes(whole)
    engine = load(folder)
    assert is_mapped(engine)
    with pytest.raises(LoadFailed, match="was damaged and has been removed: the next start packs"):
        engine.core.run()
    assert not path.exists()
    assert not is_mapped(load(folder))


@needs_kernels
def test_all_of_it_is_hashed_once_since_the_machine_started(
    folder: Path, monkeypatch: pytest.MonkeyPatch, settled: None, tmp_path: Path
) -> None:
    monkeypatch.setattr(kept_tiles, "_BOOT", tmp_path / "boot")
    (tmp_path / "boot").write_text("first\n")
    hashed: list[int] = []
    real = kept_tiles.hashlib.sha256
    load(folder)
    monkeypatch.setattr(kept_tiles.hashlib, "sha256", lambda *data: hashed.append(1) or real(*data))

    def times() -> int:
        hashed.clear()
        before = threading.active_count()
        assert is_mapped(load(folder))
        assert threading.active_count() <= before + 8
        return sum(hashed)

    first, second = times(), times()
    (tmp_path / "boot").write_text("second\n")
    third = times()
    tiles(folder).touch()  # another file by its time
    fourth = times()
    assert first == third == fourth == second + 1
    (tmp_path / "boot").unlink()
    assert times() == first, "where nobody tells when the machine started it is hashed each time"


@needs_kernels
def test_a_full_volume_and_one_that_would_get_full_keep_nothing(
    folder: Path, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(kept_tiles, "has_room", lambda folder, size: False)
        expected = logits(load(folder))
        assert list((folder / "derived").glob("*tiles*")) == []
    with monkeypatch.context() as patch:

        def full(*arguments: object) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr("ams_pod.derived.os.replace", full)
        assert torch.equal(logits(load(folder)), expected)
        assert list((folder / "derived").glob("*tiles*")) == []
        assert list((folder / "derived").glob(".*")) == []
    load(folder)
    assert is_mapped(load(folder))


@pytest.mark.parametrize(
    ("gib", "free", "size", "fits"),
    [
        (100, 30, 19, True),
        (100, 30, 21, False),
        (1000, 30, 19, True),
        (1000, 30, 21, False),
        (4, 3, 1, True),
        (4, 3, 2.5, False),
    ],
)
def test_room_is_left_for_others(gib: float, free: float, size: float, fits: bool, monkeypatch) -> None:
    monkeypatch.setattr(kept_tiles, "space_of", lambda folder: VolumeSpace(gib << 30, free << 30))
    assert has_room(Path("/x"), int(size * (1 << 30))) == fits
    monkeypatch.setattr(kept_tiles, "space_of", lambda folder: None)
    assert not has_room(Path("/x"), 0)


@needs_kernels
def test_nothing_large_is_kept_of_a_folder_of_somebody_elses(made: Path, tmp_path: Path, settled: None) -> None:
    (tmp_path / "models").mkdir()
    for _ in range(2):
        assert not is_mapped(load(made, tmp_path / "models"))
    assert list(tmp_path.rglob("tiles-*")) == []


@needs_kernels
@pytest.mark.parametrize("settings", [{"quantization": "8bit"}, {"kernels": "off"}])
def test_weights_that_arent_packed_leave_nothing(settings: dict[str, str], folder: Path, settled: None) -> None:
    for _ in range(2):
        compiled.choose(settings.get("kernels", "auto"))
        try:
            load(folder, **settings)
        finally:
            compiled.choose("auto")
    assert list(folder.rglob("tiles-*")) == []


@needs_kernels
def test_weights_that_changed_have_tiles_of_their_own(folder: Path, settled: None) -> None:
    load(folder)
    old = tiles(folder)
    (folder / "model.safetensors").touch()
    assert not is_mapped(load(folder))
    assert tiles(folder) != old, "and the old ones are gone"
    assert is_mapped(load(folder))


def test_only_one_of_a_machine_writes(tmp_path: Path, settled: None) -> None:
    """The others leave it to that one."""
    begun, go = threading.Event(), threading.Event()
    path = tmp_path / "m" / "derived" / "tiles-1.bin"

    def slowly(file: object) -> None:
        begun.set()
        go.wait(20)

    writing = threading.Thread(target=write_derived, args=(path, slowly))
    writing.start()
    assert begun.wait(20)
    other = KeptTiles(path)
    other.take(torch.zeros(8, dtype=torch.bfloat16))
    other.settle(lambda error: None)
    assert not path.exists()
    go.set()
    writing.join()
    assert path.read_bytes() == b""
    other.settle(lambda error: None)
    assert path.stat().st_size == 4096 + 16
    again = KeptTiles(path)
    mapped = again.map(8)
    assert mapped is not None
    assert mapped.tolist() == [0.0] * 8


@pytest.mark.parametrize("placement", [Placement("cuda", torch.bfloat16), Placement("cpu", torch.float32)])
def test_other_devices_and_formats_have_none(folder: Path, placement: Placement) -> None:
    settings = ServeSettings(name="m", source="file:///m", models_dir=str(folder.parent))
    request = LoadRequest(folder, settings, "cpu", torch.bfloat16, lambda events: None, lambda *each: None)
    assert KeptTiles.of(request, placement) is None


def test_what_is_mapped_is_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "derived").mkdir()
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "model.safetensors", tmp_path / "derived" / "tiles-1.bin"):
        path.write_bytes(b"x")
    read: list[str] = []
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda path, *more, **named: read.append(path.name) or real(path, *more, **named))
    for packed in (None, tmp_path / "none", tmp_path / "empty", tmp_path / "derived"):
        read_ahead(tmp_path, packed).join()
    assert read == ["model.safetensors"] * 3 + ["tiles-1.bin"]


@needs_kernels
def test_another_version_of_the_program_writes_nothing_again(
    folder: Path, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(folder)
    before = tiles(folder).stat()
    monkeypatch.setattr(own_logits, "installed_version", lambda name: "99")
    assert not is_mapped(load(folder)), "all is checked, on weights that were packed for it"
    assert tiles(folder).stat().st_ino == before.st_ino
    assert is_mapped(load(folder))


@needs_kernels
def test_a_cache_leaves_room_for_weights_that_are_mapped_and_not_read_yet(
    folder: Path, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    to_come: list[int] = []
    real = causal_lm._cache_size
    monkeypatch.setattr(causal_lm, "_cache_size", lambda *given: to_come.append(given[3]) or real(*given))
    monkeypatch.setattr(choosing, "anonymous_bytes", lambda: 1 << 30)
    first, second = load(folder), load(folder)
    assert to_come == [first.info.weights_bytes, second.info.weights_bytes]
    grown = iter([1 << 30, 3 << 30])
    monkeypatch.setattr(choosing, "anonymous_bytes", lambda: next(grown))
    load(folder)
    assert to_come[-1] == 0, "they were read into memory of the process's own"


@needs_kernels
def test_a_decoder_that_is_not_the_models_leaves_nothing_and_gives_its_memory_back(
    folder: Path, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    arenas: list[weakref.ref[object]] = []
    real = KeptTiles.take
    monkeypatch.setattr(
        KeptTiles, "take", lambda each, memory: arenas.append(weakref.ref(memory)) or real(each, memory)
    )
    monkeypatch.setattr(choosing.verify, "distance", lambda forward, probes: 0.5 if forward.name == "flat" else 0.0)
    engine = load(folder)
    assert engine.core._forward.name != "flat"
    gc.collect()
    assert [arena() for arena in arenas] == [None]
    assert list((folder / "derived").glob("*")) == []


@needs_kernels
def test_it_is_written_while_requests_are_answered(folder: Path) -> None:
    load(folder)
    ends = time.monotonic() + 20
    while not list((folder / "derived").glob("tiles-*")) and time.monotonic() < ends:
        time.sleep(0.01)
    assert is_mapped(load(folder))
