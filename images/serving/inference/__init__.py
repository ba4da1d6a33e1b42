"""Inference: fetches, loads and switches versions; decodes and scores photos in batches; searches advice."""
