"""The table of models."""

from utils.core.registry import Registry

MODELS = Registry("model")
