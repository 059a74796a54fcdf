"""What a request meets first and last, whatever its route: routing, bodies, responses, the log."""
