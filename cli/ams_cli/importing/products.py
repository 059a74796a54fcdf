"""Whose models can be imported."""

PRODUCTS = ("kubeai", "kserve", "kaito", "llama-swap", "kubernetes")
