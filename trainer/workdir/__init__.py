"""The folder of a run: its records, what they say of it, and which run may resume in it."""
