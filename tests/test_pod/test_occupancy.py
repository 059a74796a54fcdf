"""What an engine says of itself while it computes: a step that hangs is not to look idle, even the first one."""

import torch
from ams_pod.engines.builtin.model.batch import Batch
from engine_harness import Driver, forward_of, load_model
from fakehub import checkpoints


class Watched:
    """A forward that notes how busy the engine says it is in the middle of each step."""

    def __init__(self, inner) -> None:
        self._inner = inner
        self.driver: Driver | None = None
        self.running: list[int] = []

    def __getattr__(self, name: str):
        return getattr(self._inner, name)

    def step(self, batch: Batch) -> torch.Tensor:
        assert self.driver is not None
        self.running.append(self.driver.engine.occupancy().running)
        return self._inner.step(batch)


def test_the_first_step_of_an_idle_engine_counts_as_running(tmp_path) -> None:
    model = load_model(checkpoints.make("llama", tmp_path / "llama"))
    forward = Watched(forward_of("flat", model, 4, 64))
    forward.driver = driver = Driver(forward)
    for _ in range(2):
        driver.submit([1, 2, 3], 3)
        driver.run()
    assert forward.running == [1] * len(forward.running)
    assert driver.engine.occupancy().running == 0
