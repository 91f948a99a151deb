"""The folder of a run: its records, what they say about the run, and which run may resume in it."""
