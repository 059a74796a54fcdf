"""What is known: watches of the cluster, what gateways and pods report, and the queue of what changed."""
