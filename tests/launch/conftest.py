"""A test that fails may not leave its job behind either."""

from scripted import ended_afterwards

__all__ = ["ended_afterwards"]
