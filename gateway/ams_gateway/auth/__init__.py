"""Who a request comes from: keys, tokens of an identity provider, and the log of who was refused."""
