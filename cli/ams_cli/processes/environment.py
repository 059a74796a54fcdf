"""The environment that model processes inherit."""

from collections.abc import Mapping

# Settings of ours that are also meant for the processes; all others (AMS_PORT …) would be taken for theirs.
PASSED_ON = ("AMS_ALLOW_PICKLE", "AMS_KERNELS", "AMS_THREADS", "AMS_VERIFY")


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith("AMS_") or name in PASSED_ON}
