"""Photos: listing at their source, matching with rating names, and parallel inspection."""
