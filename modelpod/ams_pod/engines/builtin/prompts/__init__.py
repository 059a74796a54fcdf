"""Prompts with media, and how processors take them."""
