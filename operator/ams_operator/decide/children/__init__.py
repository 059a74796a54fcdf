"""One pure builder for each object that a ModelDeployment gets."""
