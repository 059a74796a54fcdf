"""The operator: from ModelDeployments to what runs in the cluster."""
