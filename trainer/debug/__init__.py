"""Checks of a config before hours are spent on it: data, model, loss, learning rate."""
