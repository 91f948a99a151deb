"""A job on other machines: what is shipped to its hosts, and how they are started, followed and ended over ssh."""
