"""Which runs exist, and running them."""
