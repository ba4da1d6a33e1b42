"""Data set of a run: records, batches, and the shard of each worker."""
