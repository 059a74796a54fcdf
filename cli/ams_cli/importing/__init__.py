"""`ams import`: models of other products as ModelDeployments. Pure but for `command`, which reads and prints."""
