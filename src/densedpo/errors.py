"""The error tree: what users see when something is wrong with their input, files or settings.

Each message is one line: what is wrong, where (file, field, id) and what to do. ``assert`` is for our own mistakes.
Every class also inherits the closest standard one, so that plain ``except ValueError`` keeps working.
"""

from __future__ import annotations


class DenseDPOError(Exception):
    """Base of every error meant for the user; the command line prints it as one line and exits with 1."""


class ConfigError(DenseDPOError, ValueError):
    """A setting is unknown, out of range or contradicts another."""


class ProjectError(DenseDPOError, FileNotFoundError):
    """The project folder lacks what a command needs."""


class MediaError(DenseDPOError, ValueError):
    """A video file cannot be used: damaged, oversized, hostile, too short or not a video."""


class ModelError(DenseDPOError, ValueError):
    """A model folder cannot be used: unknown family, missing part, or weights that do not fit."""


class LabelError(DenseDPOError, ValueError):
    """A label, answer or snapshot is unusable: unknown pair, bad segment, contradicting schema."""


class CheckpointError(DenseDPOError, ValueError):
    """A stored tensor file or checkpoint is incomplete, damaged or belongs to another run."""


class TrainingError(DenseDPOError, RuntimeError):
    """Training cannot go on: a non-finite number, a failed self-check, nothing to learn from."""
