"""Tests against a real API server."""

from kube_cluster import control_plane, kube, namespace

__all__ = ["control_plane", "kube", "namespace"]
