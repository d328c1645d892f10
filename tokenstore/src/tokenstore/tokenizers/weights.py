"""Where weights lie: a file that the user names, the cache, or the place where they are published.

The step before reading a checkpoint. What is fetched goes into the cache once, whole or not at
all, and its hash beside it (FILE.sha256): from then on no network is needed, and a file that
changed is refused. Which files a tokenizer has is the business of its family.
"""

import contextlib
import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from filelock import FileLock

from tokenstore.errors import WeightsError
from tokenstore.storage import LocalStorage
from tokenstore.tokenizers.checkpoints import sha256_of
from tokenstore.tokenizers.download import fetch


@dataclass(frozen=True)
class Published:
    """Where the weights of a tokenizer are published.

    Attributes:
        file: their name in the cache, "vqgan-f16-1024.ckpt".
        url: a direct link; None where they were never released.
        page: where a person finds them.
        licence: as published.
        member: the file in the zip that `url` gives; None where it gives the weights themselves.
    """

    file: str
    url: str | None
    page: str
    licence: str
    member: str | None = None


def cache_folder() -> Path:
    """$TOKENSTORE_CACHE, else `tokenstore` in the user's cache folder of this platform."""
    chosen = os.environ.get("TOKENSTORE_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "tokenstore"
    variable = "LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME"
    return Path(os.environ.get(variable) or Path.home() / ".cache") / "tokenstore"


def cached(published: Published) -> bool:
    """Whether the weights are in the cache."""
    return (cache_folder() / published.file).is_file()


def locate_weights(name: str, weights: str | None, published: Published | None) -> Path:
    """The file with the weights of a tokenizer, fetched if it must be.

    Args:
        name: of the tokenizer, for messages.
        weights: a file or an http(s) URL that the user gave; None means the published ones.
        published: where those are; None where this tokenizer has none.

    Raises:
        WeightsError: no such file, none published, no network, or another hash than recorded.
    """
    if weights is not None and "://" in weights:
        file = cache_folder() / _name_for(weights)
        by_hand = f"get it by other means and pass the file to --weights, or put it at '{file}'"
        if not file.is_file():
            fetch(weights, file, None, by_hand)
    elif weights is not None:
        return _given(Path(weights).expanduser())
    elif published is None:
        raise WeightsError(f"{name} has no published weights; pass yours with --weights FILE|URL")
    else:
        file = cache_folder() / published.file
        if not file.is_file():
            _fetch_published(name, published, file)
    _check_hash(file)
    return file


def _given(file: Path) -> Path:
    if not file.exists():
        raise WeightsError(
            f"there is no file '{file}'. Check --weights, or leave it out to use the published "
            "weights."
        )
    return file


def _fetch_published(name: str, published: Published, file: Path) -> None:
    what = f"'{published.member}' of the zip" if published.member else "the file"
    by_hand = f"get {what} from {published.page} and put it at '{file}', or pass --weights FILE"
    if published.url is None:
        raise WeightsError(
            f"the weights of {name} were never released ({published.page}). Pass your own with "
            "--weights FILE|URL."
        )
    fetch(published.url, file, published.member, by_hand)


def _name_for(url: str) -> str:
    """https://host/a/last.ckpt?dl=1 -> "1f0c9b2a7d34-last.ckpt"; differs where the URL does."""
    last = PurePosixPath(urlsplit(url).path).name
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in last)
    return f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{plain[-80:] or 'weights'}"


def _check_hash(file: Path) -> None:
    """Record a file's hash when it is first met, and refuse it when it has another later."""
    record, now = file.with_name(f"{file.name}.sha256"), sha256_of(file)
    if not record.exists():
        line = f"{now}  {file.name}\n"  # as sha256sum writes it
        # Suppressed, since a cache that all may read need not be one that all may write.
        with contextlib.suppress(OSError), FileLock(file.with_name(f"{file.name}.lock")):
            if not record.exists():
                LocalStorage(str(file.parent)).create(record.name, line.encode())
        return
    words = record.read_text(encoding="utf-8", errors="replace").split()
    if words[:1] != [now]:
        before = words[0][:12] if words else "nothing"
        raise WeightsError(
            f"'{file}' has changed: its sha256 is {now[:12]}..., recorded was {before}... If you "
            f"replaced it on purpose, delete '{record}'; else delete both and run again."
        )
