"""Everything that acts: carries out decisions, asks the hub, and takes part in the election."""
