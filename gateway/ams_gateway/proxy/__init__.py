"""The way of a request to a pod and of its answer back."""
