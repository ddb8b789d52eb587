"""A run of a job from its beginning to its end: events, measurements, slowdown warnings."""
