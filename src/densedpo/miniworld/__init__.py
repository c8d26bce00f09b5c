"""The miniature world: drawn clips, a tiny Wan trained on them, a ground-truth examiner and simulated annotators.

A user of the package, not a part of its core: the core never imports it, and it has no private path.
"""
