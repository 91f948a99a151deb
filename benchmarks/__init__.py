"""Side-by-side measurements, each a command that prints a table; the tests never run them."""
