"""torchvision can be imported beside any torch, once the engine's package was."""

import subprocess
import sys


def test_transforms_import() -> None:
    program = (
        "import ams_pod.engines.builtin, sys\n"
        "assert 'torch' not in sys.modules\n"
        "import torch, torchvision.transforms.v2.functional as f\n"
        "print(tuple(f.resize(torch.zeros(3, 8, 8), [4, 4]).shape))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert done.stdout == "(3, 4, 4)\n", done.stderr
