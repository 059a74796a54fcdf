"""Engines: `port` is what the pod's HTTP side sees of one; each folder beside it implements it."""
