"""Engines that compute for a model pod: their names, which one serves a model, and how each is started. Pure."""
