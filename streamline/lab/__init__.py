"""What a maintainer runs: benchmarks, recipes of the bundled models, calibration. Nothing below imports it."""
