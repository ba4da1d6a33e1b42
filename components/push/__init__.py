"""A scorer that passed its gates becomes a published version."""
