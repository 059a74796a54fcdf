"""From messages to token ids, and from tokens to text."""
