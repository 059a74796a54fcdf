"""What requests have in common, whatever their route: bodies, responses, the log."""
