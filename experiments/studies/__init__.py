"""Declarations only: files with a function get_study()."""
