"""Judges: one file a judge, one interface, one stage that runs them over pairs."""
