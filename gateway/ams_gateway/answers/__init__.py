"""Answers that are kept and given again, for models that ask for it."""
