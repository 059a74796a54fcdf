"""The `ams` command."""
