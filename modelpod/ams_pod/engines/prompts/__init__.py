"""From messages to token ids and from tokens to text, for every engine that takes texts. No torch here."""
