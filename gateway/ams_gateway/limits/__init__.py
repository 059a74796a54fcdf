"""How much each key may use: requests and tokens a minute, requests at once, tokens a month."""
