"""The last layers of a scorer, fitted in closed form or by Newton's method on features that stay as they are."""
