"""Ratings: readers that turn tables of every known form into votes by photo."""
