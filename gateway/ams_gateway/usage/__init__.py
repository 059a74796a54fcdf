"""How much each key has used: the ledger, and what is reported of it."""
