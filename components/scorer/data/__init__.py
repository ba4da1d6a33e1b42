"""The data set of a run: its records and batches, and each worker's shard of them."""
