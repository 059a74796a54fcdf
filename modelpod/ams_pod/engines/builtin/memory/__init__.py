"""Where weights go, how much memory there is, and what to do when it runs out."""
