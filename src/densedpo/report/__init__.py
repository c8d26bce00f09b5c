"""The report: one HTML folder, opened from disk without a network, that shows what a project did and found."""
