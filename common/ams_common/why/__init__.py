"""Why a request was slow or failed, and why a model isn't ready: causes in their order, from what was recorded.

Pure: no clock, no I/O. Gateway and command line bring the records.
"""
