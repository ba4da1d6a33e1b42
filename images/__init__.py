"""Container images: what the steps and the server run in."""
