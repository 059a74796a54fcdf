"""Which models there are and who answers for them."""
