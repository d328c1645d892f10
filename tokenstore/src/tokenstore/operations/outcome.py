"""What an append, merge or conversion came to, as JSON and as lines for people."""

import time
from typing import Any

from tokenstore.build.run import BuildReport
from tokenstore.sizes import StoreSizes, measure
from tokenstore.storage import open_storage


class Outcome:
    """A report with the sizes of its store and the time that it took since `started`.

    Attributes:
        report: of the work; its `tokenized` counts the images that were added or written.
        seconds: that it took.
    """

    def __init__(self, report: BuildReport, started: float) -> None:
        """Measure the store."""
        self.report = report
        self.seconds = time.monotonic() - started
        self.sizes: StoreSizes = measure(open_storage(report.place), report.manifest)

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.report.tokenized / max(self.seconds, 1e-9)

    def facts(self) -> dict[str, Any]:
        """Everything as JSON; sizes are in bytes."""
        manifest, sizes = self.report.manifest, self.sizes.splits
        return {
            "store": self.report.place,
            "new": self.report.is_new,
            "fingerprint": manifest.hash,
            "version": manifest.version,
            "splits": {name: split.images for name, split in sizes.items()},
            "vocabulary": manifest.vocabulary.size,
            "bytes": sum(split.total for split in sizes.values()),
            "rejects": manifest.rejects.count,
            "images": self.report.tokenized,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.rate, 2),
        }

    def lines(self, done: str) -> list[str]:
        """The store as it is now; `done` is what was done, as in "1,000 images merged"."""
        manifest, place = self.report.manifest, self.report.place
        if not self.report.is_new:
            return [f"{place} is whole already: it has all of this."]
        splits = [
            f"{name:<6} {split.images:>10,} images  {split.an_image(split.total):>8,.1f} bytes an "
            f"image (order-0 entropy {self.sizes.entropy:,.1f})"
            for name, split in self.sizes.splits.items()
        ]
        return [
            *splits,
            f"vocabulary {manifest.vocabulary.size:,} codes, rejects {manifest.rejects.count:,}",
            f"{place} is whole: {self.report.tokenized:,} images {done} in {self.seconds:,.1f} s "
            f"({self.rate:,.1f} images/s)",
            f"next:  tokenstore info {place}   tokenstore verify {place}",
        ]
