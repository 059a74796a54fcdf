"""Who stops when memory is short."""

from pathlib import Path
from typing import Any

import pytest
from ams_cli import machine
from ams_cli.eviction import MARGIN_BYTES, Eviction, RunningModel, choose_victims, plan_eviction, unclaimed_bytes

GIB = 1 << 30


def holder(name: str, size: int, last_used: float, **more: Any) -> RunningModel:
    return RunningModel(name, size, more.pop("promised", size), last_used, **more)


def test_the_least_recently_used_stops_first() -> None:
    holders = [holder("new", 2 * GIB, 9.0), holder("old", 2 * GIB, 1.0), holder("busy", 9 * GIB, 0.0, idle=False)]
    assert choose_victims(GIB, 8 * GIB, holders) == []
    assert choose_victims(3 * GIB, 2 * GIB, holders) == ["old"]
    assert choose_victims(5 * GIB, 2 * GIB, holders) == ["old", "new"]
    assert choose_victims(7 * GIB, 2 * GIB, holders) is None, "nobody stops where it would not help"


def test_a_model_that_is_always_on_stays() -> None:
    assert choose_victims(3 * GIB, GIB, [holder("a", 4 * GIB, 0.0, on_demand=False)]) is None


def test_what_was_promised_is_not_free() -> None:
    holders = [holder("loading", GIB, 0.0, promised=4 * GIB), holder("large", 3 * GIB, 0.0, promised=GIB)]
    assert unclaimed_bytes(10 * GIB, None, holders) == 7 * GIB - MARGIN_BYTES
    assert MARGIN_BYTES == 268_435_456
    assert unclaimed_bytes(None, 10 * GIB, holders) == 3 * GIB
    assert unclaimed_bytes(10 * GIB, 9 * GIB, holders) == 2 * GIB
    assert unclaimed_bytes(None, None, holders) is None


def test_a_smaller_quantization_is_taken_where_stopping_others_is_not_enough() -> None:
    holders = [holder("old", 2 * GIB, 1.0), holder("kept", 2 * GIB, 0.0, on_demand=False)]
    assert plan_eviction([4 * GIB, 2 * GIB], 4 * GIB, holders) == Eviction(4 * GIB)
    assert plan_eviction([4 * GIB, 2 * GIB], 2 * GIB, holders) == Eviction(4 * GIB, ("old",))
    assert plan_eviction([8 * GIB, 2 * GIB], 2 * GIB, holders) == Eviction(2 * GIB)
    assert plan_eviction([8 * GIB, 6 * GIB], 2 * GIB, holders) == Eviction(6 * GIB, short=True)


def test_room_for_a_part_is_no_room() -> None:
    assert Eviction(GIB).short is Eviction(GIB).wait is False
    holders = [holder("half", 2 * GIB, 0.0, promised=3 * GIB)]
    assert unclaimed_bytes(5 * GIB, None, holders) == 4 * GIB - MARGIN_BYTES, "of 3 GiB that it may take it has 2"
    assert choose_victims(4 * GIB, GIB, holders) == ["half"], "to the byte"
    assert choose_victims(4 * GIB + 1, GIB, holders) is None


def test_models_in_use_are_waited_for_if_that_helps() -> None:
    busy = [holder("busy", 4 * GIB, 1.0, idle=False)]
    assert plan_eviction([4 * GIB], GIB, busy) == Eviction(4 * GIB, short=True, wait=True)
    assert plan_eviction([6 * GIB], GIB, busy) == Eviction(6 * GIB, short=True)


def test_what_the_gpus_driver_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\ncase $1 in *free*) printf '1024\\n4096\\n';; *) printf '7, 512\\n7, 256\\n8, [N/A]\\n';; esac\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert machine.gpu_free_bytes() == (4 * GIB, GIB)
    assert machine.gpu_held_bytes() == {7: 768 << 20}
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert (machine.gpu_free_bytes(), machine.gpu_held_bytes()) == ((), {})
