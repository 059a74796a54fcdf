"""Condition types of a ModelDeployment and every reason that each one may carry: programs rely on these words."""

from typing import Final, Literal

ConditionType = Literal["Accepted", "PreflightPassed", "WeightsReady", "Available", "Progressing", "Ready"]
ConditionStatus = Literal["True", "False", "Unknown"]

ACCEPTED: Final = "Accepted"
PREFLIGHT_PASSED: Final = "PreflightPassed"
WEIGHTS_READY: Final = "WeightsReady"
AVAILABLE: Final = "Available"
PROGRESSING: Final = "Progressing"
READY: Final = "Ready"

# Accepted
VALID: Final = "Valid"
NAME_TAKEN: Final = "NameTaken"
UNSUPPORTED_ARCHITECTURE: Final = "UnsupportedArchitecture"
INVALID_SOURCE: Final = "InvalidSource"
CACHE_NOT_SHAREABLE: Final = "CacheNotShareable"
SECRET_NOT_FOUND: Final = "SecretNotFound"
SECRET_KEY_MISSING: Final = "SecretKeyMissing"
REJECTED: Final = "Rejected"  # the API server refuses an object that the resource asks for

# PreflightPassed
PASSED: Final = "Passed"
MODEL_NOT_FOUND: Final = "ModelNotFound"
GATED_MODEL: Final = "GatedModel"
BAD_TOKEN: Final = "BadToken"
REVISION_NOT_FOUND: Final = "RevisionNotFound"
VOLUME_TOO_SMALL: Final = "VolumeTooSmall"
DOES_NOT_FIT_MEMORY: Final = "DoesNotFitMemory"
HUB_UNREACHABLE: Final = "HubUnreachable"  # Unknown: does not block

# WeightsReady
VERIFIED: Final = "Verified"
DOWNLOADING: Final = "Downloading"
DISK_FULL: Final = "DiskFull"
CHECKSUM_MISMATCH: Final = "ChecksumMismatch"
LOCK_MISMATCH: Final = "LockMismatch"
HUB_RATE_LIMITED: Final = "HubRateLimited"
VOLUME_PENDING: Final = "VolumePending"
VOLUME_LOST: Final = "VolumeLost"
VOLUME_NOT_EXPANDABLE: Final = "VolumeNotExpandable"
NOT_DOWNLOADED_YET: Final = "NotDownloadedYet"  # Unknown until a pod ran

# Available
SERVING: Final = "Serving"
SCALED_TO_ZERO: Final = "ScaledToZero"
UNSCHEDULABLE: Final = "Unschedulable"
INSUFFICIENT_GPU: Final = "InsufficientGPU"
IMAGE_PULL_FAILED: Final = "ImagePullFailed"
OUT_OF_MEMORY_KILLED: Final = "OutOfMemoryKilled"
CRASH_LOOP: Final = "CrashLoop"
LOAD_FAILED: Final = "LoadFailed"
STARTING: Final = "Starting"
SUSPENDED: Final = "Suspended"

# Progressing
ROLLING_OUT: Final = "RollingOut"
SCALING: Final = "Scaling"
COMPLETE: Final = "Complete"
GOLDEN_PROMPT_FAILED: Final = "GoldenPromptFailed"
DEADLINE_EXCEEDED: Final = "DeadlineExceeded"

# type → (reasons of True, reasons of False, reasons of Unknown)
REASONS: Final[dict[ConditionType, tuple[frozenset[str], frozenset[str], frozenset[str]]]] = {
    "Accepted": (
        frozenset({VALID}),
        frozenset(
            {
                NAME_TAKEN,
                UNSUPPORTED_ARCHITECTURE,
                INVALID_SOURCE,
                CACHE_NOT_SHAREABLE,
                SECRET_NOT_FOUND,
                SECRET_KEY_MISSING,
                REJECTED,
            }
        ),
        frozenset(),
    ),
    "PreflightPassed": (
        frozenset({PASSED}),
        frozenset({MODEL_NOT_FOUND, GATED_MODEL, BAD_TOKEN, REVISION_NOT_FOUND, VOLUME_TOO_SMALL, DOES_NOT_FIT_MEMORY}),
        frozenset({HUB_UNREACHABLE}),
    ),
    "WeightsReady": (
        frozenset({VERIFIED}),
        frozenset(
            {
                DOWNLOADING,
                DISK_FULL,
                CHECKSUM_MISMATCH,
                LOCK_MISMATCH,
                HUB_RATE_LIMITED,
                VOLUME_PENDING,
                VOLUME_LOST,
                VOLUME_NOT_EXPANDABLE,
            }
        ),
        frozenset({NOT_DOWNLOADED_YET}),
    ),
    "Available": (
        frozenset({SERVING}),
        frozenset(
            {
                SCALED_TO_ZERO,
                UNSCHEDULABLE,
                INSUFFICIENT_GPU,
                IMAGE_PULL_FAILED,
                OUT_OF_MEMORY_KILLED,
                CRASH_LOOP,
                LOAD_FAILED,
                STARTING,
                SUSPENDED,
            }
        ),
        frozenset(),
    ),
    "Progressing": (
        frozenset({ROLLING_OUT, SCALING}),
        frozenset({COMPLETE, GOLDEN_PROMPT_FAILED, DEADLINE_EXCEEDED}),
        frozenset(),
    ),
}
