"""What `--data`, `--test` and `--examples` take on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from moth_eval.loading.sources import ImageSource

    ParamType = click.ParamType[ImageSource]
else:  # the oldest click that we run with has no generic types
    ParamType = click.ParamType


class ImagesType(ParamType):
    """A folder, an `.npz`, or `torchvision:NAME:FOLDER`."""

    name = "path"

    def __init__(self, *, training: bool) -> None:
        """Say which part of a torchvision data set is meant.

        Args:
            training: whether it is the one to train on.
        """
        self._training = training

    def convert(
        self, value: str | ImageSource, param: click.Parameter | None, ctx: click.Context | None
    ) -> ImageSource:
        """The source that a text names."""
        from moth_eval.loading.sources import parse_source

        return parse_source(value, training=self._training) if isinstance(value, str) else value


training_images = ImagesType(training=True)
test_images = ImagesType(training=False)
