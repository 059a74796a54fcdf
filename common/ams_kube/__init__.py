"""Kubernetes over typed objects: get, list in pages, watch with re-lists, apply. The one user of `kubernetes`."""
