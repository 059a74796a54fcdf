"""One gateway as several processes on one port, for machines with cores to spare."""
