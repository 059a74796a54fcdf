"""The engine: the only package that knows torch and transformers."""

from ams_pod.runtime import torchvision_shim

torchvision_shim.install()
