"""Everything that decides. Pure: what is observed and the time come in, what is to be done goes out."""
