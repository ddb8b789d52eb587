"""AnimateDiff and its siblings."""
