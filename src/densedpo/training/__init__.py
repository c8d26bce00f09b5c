"""Preference training: pure losses, data, loop, checkpoints."""
