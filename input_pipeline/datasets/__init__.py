"""The datasets, one file each, and the file formats that they share."""
