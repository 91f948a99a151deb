"""Search spaces: scales, their binding to fields of a config, and spaces to start from."""
