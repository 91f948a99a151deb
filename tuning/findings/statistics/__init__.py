"""Statistics that the findings share."""
