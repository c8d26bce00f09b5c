"""Models that live outside our process: a line protocol, its two ends, and how their environments are made."""
