"""Inference: versions are fetched, loaded and swapped; photos are decoded and scored in batches."""
