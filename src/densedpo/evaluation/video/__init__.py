"""Scores of one video that need no weights: motion, steadiness, light and colour (no torch)."""
