"""torch.compile: what it raises on a machine that lacks what it needs."""

COMPILER_ERRORS = (RuntimeError, ImportError, OSError, ValueError, TypeError, AttributeError, AssertionError)
"""Where the compiler of a backend is missing, or the backend itself."""
