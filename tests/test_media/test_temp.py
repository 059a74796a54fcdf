"""Temp files: gone when they are done with, kept while they are used, and tidied up after the dead."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ams_pod.media.spool import Spool
from ams_pod.media.temp import TempFolder

_HOLD = """
import sys, time
from ams_pod.media.temp import TempFolder
with TempFolder(sys.argv[1]).file() as descriptor:
    import os; os.write(descriptor, b"x" * 1000)
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> TempFolder:
    return TempFolder(str(tmp_path))


def _leave(folder: TempFolder, pid: int, age_seconds: float = 0.0, size: int = 10) -> Path:
    """What a process left."""
    path = folder.path / f"ams-{pid}-0123456789ab"
    path.write_bytes(bytes(size))
    os.utime(path, (time.time() - age_seconds,) * 2)
    return path


def _dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_file_is_there_for_its_block(folder: TempFolder) -> None:
    with folder.file() as descriptor:
        os.write(descriptor, b"12345")
        (found,) = folder.files()
        assert (found.path.parent, found.bytes) == (folder.path, 5)
        assert found.path.name.startswith(f"ams-{os.getpid()}-")
        assert found.path.stat().st_mode & 0o077 == 0, "others must not read it"
        assert folder.clean() == [], "it is in use"
        assert folder.files() == [found]
    assert os.listdir(folder.path) == []
    with pytest.raises(ZeroDivisionError), folder.file():
        _ = 1 / 0
    assert os.listdir(folder.path) == []


def test_at_start_the_old_and_those_of_the_dead_go(folder: TempFolder) -> None:
    dead = _leave(folder, _dead_pid())
    old = _leave(folder, os.getpid(), age_seconds=3700)
    young = folder.path / f"ams-{os.getpid()}-ba9876543210"
    young.write_bytes(b"")
    others = folder.path / "holiday.mp4"
    others.write_bytes(b"")
    os.utime(others, (0, 0))
    assert {file.path for file in folder.clean(older_than_seconds=3600)} == {dead, old}
    assert sorted(os.listdir(folder.path)) == sorted([young.name, others.name])
    assert [file.path for file in folder.clean()] == [young]
    assert os.listdir(folder.path) == [others.name], "only our own are ever removed"


def test_files_of_another_process_stay_until_it_dies(folder: TempFolder) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(folder.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        (found,) = folder.files()
        os.utime(found.path, (0, 0))
        assert folder.clean() == [], "its age doesn't matter while it is used"
    finally:
        process.kill()
        process.communicate()
    assert [file.bytes for file in folder.clean()] == [1000]
    assert os.listdir(folder.path) == []


def test_a_link_is_not_followed(folder: TempFolder, tmp_path_factory: pytest.TempPathFactory) -> None:
    target = tmp_path_factory.mktemp("else") / "target"
    target.write_bytes(b"x")
    (folder.path / "ams-1-0123456789ab").symlink_to(target)
    assert folder.clean() == []
    assert target.exists()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    folder = TempFolder(str(tmp_path / "new" / "er"))
    assert (folder.files(), folder.clean(), folder.identity()) == ([], [], "")
    with folder.file():
        assert len(folder.files()) == 1
    assert folder.identity() == TempFolder(str(tmp_path / "new" / "er")).identity() != TempFolder("/").identity()


def test_small_uploads_stay_in_memory(folder: TempFolder) -> None:
    with Spool(folder, 100) as spool:
        first = spool.take([b"a" * 30, b"b" * 30])
        second = spool.take([b"c" * 40])
        assert folder.files() == []
        large = spool.take([b"d", b"e" * 1000])
        last = spool.take([])
        assert [file.bytes for file in folder.files()] == [1001]
        assert [upload.open().read() for upload in (first, second, large, last)] == [
            b"a" * 30 + b"b" * 30,
            b"c" * 40,
            b"d" + b"e" * 1000,
            b"",
        ]
        assert [upload.bytes for upload in (first, second, large, last)] == [60, 40, 1001, 0]
        with large.open() as file:
            assert (file.seek(-10, os.SEEK_END), file.read(100)) == (991, b"e" * 10)
            assert (file.seek(1), file.read(2), file.tell()) == (1, b"ee", 3)
    assert folder.files() == []


def test_several_large_uploads_share_a_file(folder: TempFolder) -> None:
    with Spool(folder, 0) as spool:
        uploads = [spool.take([bytes([number]) * 500]) for number in range(5)]
        assert [file.bytes for file in folder.files()] == [2500]
        assert [upload.open().read() for upload in uploads] == [bytes([number]) * 500 for number in range(5)]
        spool.close()
        assert folder.files() == []
        with pytest.raises(ValueError, match="gone"):
            uploads[0].open().read()
