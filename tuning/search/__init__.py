"""Where the points of a study come from."""
