"""The model itself: its weights, its forward passes, its cache, and the choice of the next token."""
