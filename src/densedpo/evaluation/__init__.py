"""Evaluation: samples for prompts, scores, and paired differences with intervals."""
