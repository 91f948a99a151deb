"""States on the disk: written behind the training, verified when read, and where else parameters come from."""
