"""Aligned pairs: two videos denoised from partly noised copies of one real clip."""
