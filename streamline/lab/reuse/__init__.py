"""Calibration: which steps of a model may reuse what, measured."""
