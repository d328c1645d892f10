"""Pictures for the encoder: read, decoded and resized ahead of it, by a pool of workers.

Work is handed out a few images at a time and comes back in the order of the list, so nothing of a
store depends on the kind of the pool, its size or its speed. Parts follow each other without a
pause: while the last pictures of one are taken, the first of the next are decoded already.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import chain, islice, tee

from tokenstore.build.pictures import Picture, pictures_of
from tokenstore.build.plan import Part
from tokenstore.build.views import ONE_VIEW, Views
from tokenstore.build.workers import DecodingPool
from tokenstore.errors import ImageRejected
from tokenstore.preprocess import Preprocess
from tokenstore.sources.base import Item, Source

Decoded = tuple[Picture, ...] | ImageRejected  # the views of an image, or why there is none
Decode = Callable[[Sequence[Item]], list[Decoded]]
Batch = tuple[Sequence[Item], list[Decoded]]

IMAGES_A_TASK = 8  # what handing a task to another process costs is small beside decoding these
BATCHES_AHEAD = 2
TASKS_AHEAD = 2  # a worker: one in its hands, one waiting for it


def decoding_by(source: Source, rule: Preprocess, views: Views = ONE_VIEW) -> Decode:
    """What the workers do: images of this source, resized by this rule, each in these views."""
    return partial(_decode, source, (rule, views))


def decoded_parts(
    parts: Iterable[Part], size: int, decode: Decode, pool: DecodingPool
) -> Iterator[tuple[Part, Iterator[Batch]]]:
    """Each part with its batches, to be taken before the next part; see `decoded_batches`."""
    mine, ahead = tee(parts)
    pictures = _pictures((part.items for part in ahead), size, decode, pool)
    for part in mine:
        yield part, _batches(part.items, size, pictures)


def decoded_batches(
    items: Sequence[Item], size: int, decode: Decode, pool: DecodingPool
) -> Iterator[Batch]:
    """Runs of `size` items with their pictures, decoded ahead of the run that is asked for.

    Raises:
        BuildError: worker processes cannot be kept alive.
        InputChanged: an image is not the one that was listed.
    """
    return _batches(items, size, _pictures([items], size, decode, pool))


def _batches(items: Sequence[Item], size: int, pictures: Iterator[Decoded]) -> Iterator[Batch]:
    for batch in _runs(items, size):
        yield batch, list(islice(pictures, len(batch)))


def _pictures(
    lists: Iterable[Sequence[Item]], size: int, decode: Decode, pool: DecodingPool
) -> Iterator[Decoded]:
    """The pictures of all lists in order; no task has images of two of them."""
    ahead = max(TASKS_AHEAD * pool.workers, -(-BATCHES_AHEAD * size // IMAGES_A_TASK))
    tasks = chain.from_iterable(_runs(items, IMAGES_A_TASK) for items in lists)
    return chain.from_iterable(_in_order(tasks, decode, pool, ahead))


def _runs(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _in_order(
    tasks: Iterable[Sequence[Item]], decode: Decode, pool: DecodingPool, ahead: int
) -> Iterator[list[Decoded]]:
    """Results in the order of the tasks, with up to `ahead` more of them in work."""
    waiting: deque[tuple[Sequence[Item], Future[list[Decoded]]]] = deque()
    try:
        for task in tasks:
            waiting.append((task, pool.submit(decode, task)))
            if len(waiting) > ahead:
                yield pool.result(decode, *waiting.popleft())
        while waiting:
            yield pool.result(decode, *waiting.popleft())
    finally:
        for _, future in waiting:
            future.cancel()


def _decode(source: Source, how: tuple[Preprocess, Views], items: Sequence[Item]) -> list[Decoded]:
    return [_decode_one(source, how, item) for item in items]


def _decode_one(source: Source, how: tuple[Preprocess, Views], item: Item) -> Decoded:
    try:
        return pictures_of(source, item, *how)
    except ImageRejected as reason:
        return reason
