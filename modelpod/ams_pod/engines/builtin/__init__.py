"""The engine: the only package that knows torch and transformers."""

from ams_pod.engines.builtin import torchvision_shim

torchvision_shim.install()
