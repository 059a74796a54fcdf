"""The front door: one HTTP API over all models."""
