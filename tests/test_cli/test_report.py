"""What is shown of models, with and without a terminal."""

from ams_cli.report import Lines
from ams_common.lifecycle import Phase
from ams_common.progress import Progress


def test_lines_tell_each_phase_and_a_download_now_and_then() -> None:
    lines = Lines()
    steps = [
        (0.0, Progress(Phase.DOWNLOADING), "m: downloading"),
        (0.1, Progress(Phase.DOWNLOADING, percent=1), None),
        (0.2, Progress(Phase.DOWNLOADING, percent=2), None),
        (0.3, Progress(Phase.VERIFYING, percent=2), "m: verifying 2 %"),
        (0.4, Progress(Phase.VERIFYING, percent=11), None),
        (0.5, Progress(Phase.VERIFYING, percent=12), None),
        (1.4, Progress(Phase.VERIFYING, percent=13), "m: verifying 13 %"),
        (4.0, Progress(Phase.VERIFYING, percent=14), None),
        (6.5, Progress(Phase.VERIFYING, percent=15), "m: verifying 15 %"),
        (12.0, Progress(Phase.VERIFYING, percent=15), None),
        (13.0, Progress(Phase.READY), "m: ready"),
        (14.0, Progress(Phase.FAILED, message="a"), "m: failed – a"),
        (15.0, Progress(Phase.FAILED, message="b"), "m: failed – b"),
        (16.0, Progress(Phase.IDLE), "m: idle"),
    ]
    for now, progress, line in steps:
        assert lines.line("m", progress, now) == line, progress
    assert lines.line("other", Progress(Phase.READY), 15.0) == "other: ready"
