"""Anthropic's Messages API: translated onto chat, and answered with its own blocks and events."""
