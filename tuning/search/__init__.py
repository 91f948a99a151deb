"""The searches that choose the points of a study."""
