"""tokenstore: image corpora as VQ tokens.

    store = tokenstore.open("imagenet.tokenstore")
    batch = store["train"].read([3, 1, 4])

`import tokenstore` loads neither torch nor numba.
"""

from tokenstore.reader import Batch, Sample, Split, Store
from tokenstore.reader import open_store as open

# The one place of the version of both distributions: builds and images read it here.
__version__ = "0.1.0"
__all__ = ["Batch", "Sample", "Split", "Store", "open"]
