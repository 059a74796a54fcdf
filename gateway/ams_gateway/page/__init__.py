"""The page at `/`: files that browsers get as they are, in `static`; nothing is built of them."""
