"""Ratings: tables of any of the known forms become votes by photo."""
