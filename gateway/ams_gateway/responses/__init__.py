"""Responses that are kept so that others can go on from them."""
