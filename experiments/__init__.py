"""Declarations only: files with a function `get_config()`."""

if __name__ != "trialbook.experiments":
  # A second copy of every module would be loaded otherwise.
  raise ImportError(f"{__name__} is imported as trialbook.experiments")
