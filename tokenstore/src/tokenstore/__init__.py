"""tokenstore: image corpora as VQ tokens.

    store = tokenstore.open("imagenet.tokenstore")
    batch = store["train"].read([3, 1, 4])

`import tokenstore` loads neither torch nor numba.
"""

import importlib.metadata

from tokenstore.reader import Batch, Sample, Split, Store
from tokenstore.reader import open_store as open

__version__ = importlib.metadata.version("tokenstore")
__all__ = ["Batch", "Sample", "Split", "Store", "open"]
