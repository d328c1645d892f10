"""matplotlib for the figures of the pipelines, which is no dependency of either package.

A pipeline that draws at its end asks here before its first step too, so that nobody trains for
hours to be told that a picture cannot be drawn.
"""

from typing import Any

import click


def pyplot() -> Any:
    """`matplotlib.pyplot`, drawing to files only.

    Raises:
        ClickException: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        raise click.ClickException("drawing takes matplotlib: pip install matplotlib") from None
    mpl.use("Agg")
    from matplotlib import pyplot as found

    return found
