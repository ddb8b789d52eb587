"""A plan at work on a pipeline: apply and restore, out-of-memory fallback, reuse over steps, resuming."""
