"""OpenAI's Responses API: translated onto chat, and answered with its own items and events."""
