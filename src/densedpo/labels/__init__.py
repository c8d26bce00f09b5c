"""Segment labels: the grid, answers, the event store, consensus, audit and frozen snapshots (no torch)."""
