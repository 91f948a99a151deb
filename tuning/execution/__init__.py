"""Running the trials of a study: the coordinator, and where trials run."""
