"""Photos: found at their source, matched with the ratings by name, inspected side by side."""
