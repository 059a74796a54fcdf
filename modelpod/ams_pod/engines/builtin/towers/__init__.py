"""From media to embeddings: the towers in front of the language model."""
