"""The connection to Redis that limits, ledger and answers share; being away is a state, never an error of a request."""
