"""Pointsman steers each prompt of an LLM fleet to the model server that will answer it soonest."""

from importlib.metadata import version

__version__ = version("pointsman")
