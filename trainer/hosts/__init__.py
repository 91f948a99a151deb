"""The processes that train together: how they find, await, guard and compare each other."""
