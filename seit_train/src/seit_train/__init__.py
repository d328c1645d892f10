"""seit_train: training vision models from token stores."""

import importlib.metadata

__version__ = importlib.metadata.version("seit-train")
