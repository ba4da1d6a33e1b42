"""HTML pages with tables, charts and photos, each one file."""
