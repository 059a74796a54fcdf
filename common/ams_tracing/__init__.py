"""Traces on their way out: the only user of OpenTelemetry, which is imported only where an endpoint is set."""
