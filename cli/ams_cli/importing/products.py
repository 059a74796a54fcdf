"""Whose models can be imported."""

PRODUCTS = ("kubeai", "kserve", "kaito", "llama-swap", "kubernetes", "production-stack", "llm-d", "compose")
