"""A scorer and the champion are measured on the test split; the gates decide."""
