"""A source whose decoder ends its process at every image called `killer`, as a broken C library."""

import os
from pathlib import Path

from PIL import Image

from tokenstore.sources.base import Item
from tokenstore.sources.image_folder import ImageFolder


class CrashingSource(ImageFolder):
    """A folder of images, some of which cannot be looked at."""

    kind = "crashing"

    def load(self, item: Item) -> Image.Image:
        if "killer" in item.key:
            os._exit(77)
        return super().load(item)


PLUGIN = CrashingSource


def install(folder: Path) -> None:
    """Make `crashing` known wherever this folder and the repository are on the import path."""
    info = folder / "crashing_source-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: crashing-source\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[tokenstore.sources]\ncrashing = tests.crashing_source:PLUGIN\n"
    )
