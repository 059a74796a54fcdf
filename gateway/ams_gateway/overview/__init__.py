"""How all models are at one moment, for the page at `/` and for `ams top`."""
