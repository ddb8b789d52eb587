"""Errors a caller can act on; each carries one sentence meant for people."""


class StreamlineError(Exception):
    """Base of every error this package raises on purpose."""


class PlanError(StreamlineError, ValueError):
    """A plan, or a part of one, does not make sense."""


class UnsupportedError(StreamlineError):
    """A network or an option that this package cannot run exactly, and so refuses."""


class ModelError(StreamlineError):
    """A model cannot be found, read or used as asked."""


class InputError(StreamlineError, ValueError):
    """A job's input (prompt, image, size, ...) cannot be used."""
