"""What to read where in data that are no class folders. Needs no numpy, so that flags are answered at once."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reading:
    """What to read where in data that are no class folders; None is guessed."""

    image_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    group_column: str | None = None
    group_regex: str | None = None  # what it finds in the name of an image, or its first group, is the image's group

    @property
    def given(self):
        """{name: value} of what is not guessed."""
        return {name: value for name, value in vars(self).items() if value is not None}
