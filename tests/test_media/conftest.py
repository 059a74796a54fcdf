"""Limits and a watch, as a request has them."""

import pytest
from ams_pod.media.limits import MediaLimits
from ams_pod.media.watch import Watch


@pytest.fixture
def limits() -> MediaLimits:
    return MediaLimits()


@pytest.fixture
def watch() -> Watch:
    watch = Watch(60.0)
    watch.item("image")
    return watch
