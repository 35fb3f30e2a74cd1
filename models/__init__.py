"""Architectures and the registry; `models.build.build_model` builds them by name."""
