"""Engines of other makes: servers of their own, asked by OpenAI's protocol or their own dialect of it."""
