"""The one error of this room."""


class DataError(ValueError):
  """A dataset cannot be given as asked; the message is for the user: place, problem, remedy."""
