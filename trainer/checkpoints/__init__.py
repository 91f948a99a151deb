"""States on the disk: written while training continues, verified when read; and other sources of parameters."""
