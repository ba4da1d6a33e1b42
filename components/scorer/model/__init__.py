"""The scorer's network: layers, encoder, heads, losses, and the outputs that are served."""
