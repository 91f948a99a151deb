"""Studies with a known truth, and how often the findings see it."""
