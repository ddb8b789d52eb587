"""The auto-tuner: from costs, a budget and a quality to a plan."""
