"""Why a model is ready or not: pure readings of pods, volumes and Deployments, and the status made of them."""
