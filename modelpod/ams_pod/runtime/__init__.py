"""The engine: the only package that knows torch and transformers."""
