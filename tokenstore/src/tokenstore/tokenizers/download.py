"""One file from the web, whole or not at all, going on where an earlier attempt broke off.

    FILE.part       what has arrived
    FILE.part.tag   the server's validator (ETag or Last-Modified) of the file that it is part of

Serves weights.py. A server that knows no ranges, or whose file has changed since, makes it start
anew: the validator goes out as If-Range. One process fetches a file, others wait for it. What the
file holds is not looked at, but for a web page in its place.
"""

import http.client
import shutil
import struct
import zipfile
import zlib
from email.message import Message
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from filelock import FileLock

from tokenstore.errors import WeightsError
from tokenstore.progress import WorkProgress

CHUNK = 2**20
MEGABYTE = 10**6
TIMEOUT_SECONDS = 60.0
# ValueError: an address that is none. RuntimeError: a zip with a password.
FAILURES = (
    *(OSError, http.client.HTTPException, ValueError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, LookupError),
)


def fetch(url: str, file: Path, member: str | None, by_hand: str) -> None:
    """Fetch `url` into `file`.

    Args:
        url: http or https.
        file: to be written; its folder is made.
        member: where the URL gives a zip, the name in it of what `file` shall be.
        by_hand: what the user can do without this function, for messages.

    Raises:
        WeightsError: it cannot be reached, breaks off, or is not what was expected.
    """
    if not url.startswith(("https://", "http://")):
        raise WeightsError(f"'{url}' is no http(s) address; {by_hand}.")
    part, tag = (file.with_name(file.name + end) for end in (".part", ".part.tag"))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_name(f"{file.name}.lock")):
            if file.is_file():  # another process fetched it while this one waited
                return
            _download(url, part, tag)
            tag.unlink(missing_ok=True)  # from here on, there is nothing to go on with
            if member is not None:
                _unpack(part, member)
            part.replace(file)
    except FAILURES as error:
        reason = getattr(error, "reason", None) or error
        if isinstance(error, HTTPError):
            reason = f"{error.code} {error.reason}"
        raise WeightsError(
            f"cannot fetch {url} ({reason}). Run the same again, which goes on where this broke "
            f"off; or {by_hand}."
        ) from error


def _download(url: str, part: Path, tag: Path) -> None:
    """Complete `part`, from what is there of it if the server's file is still the same."""
    begun = part.stat().st_size if part.exists() and tag.exists() else 0
    headers = {"User-Agent": "tokenstore", "Accept-Encoding": "identity"}
    if begun:
        headers |= {"Range": f"bytes={begun}-", "If-Range": tag.read_text(encoding="utf-8")}
    try:
        with urlopen(Request(url, headers=headers), timeout=TIMEOUT_SECONDS) as answer:
            _receive(answer, part, tag, begun)
    except HTTPError as error:
        error.close()
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not begun:
            raise
        part.unlink()  # the server has nothing behind what is here
        _download(url, part, tag)


def _receive(answer: http.client.HTTPResponse, part: Path, tag: Path, begun: int) -> None:
    goes_on = answer.status == http.client.PARTIAL_CONTENT
    if goes_on and not answer.headers.get("Content-Range", "").startswith(f"bytes {begun}-"):
        part.unlink()
        raise OSError("the server sent another part than it was asked for")
    if answer.headers.get_content_type() == "text/html":
        raise OSError("it gives a web page instead of a file")
    begun = begun if goes_on else 0
    length = answer.headers.get("Content-Length")
    total = begun + int(length) if length else None
    with part.open("ab" if goes_on else "wb") as stream:
        # After the old bytes are gone, lest they are taken for a part of the new file.
        _keep_validator(answer.headers, tag)
        with WorkProgress(
            f"fetching {part.stem}", total // MEGABYTE if total else None, "MB"
        ) as progress:
            progress.skip(begun // MEGABYTE)
            _copy(answer, stream, progress)
    size = part.stat().st_size
    if total is not None and size != total:
        raise OSError(f"broke off at {size:,} of {total:,} bytes")


def _copy(answer: http.client.HTTPResponse, stream: IO[bytes], progress: WorkProgress) -> None:
    while chunk := answer.read(CHUNK):
        stream.write(chunk)
        progress.advance(stream.tell() // MEGABYTE - progress.done)


def _keep_validator(headers: Message, tag: Path) -> None:
    """Keep what tells this very file from a later one; a weak ETag does not."""
    etag = headers.get("ETag", "W/")
    validator = headers.get("Last-Modified") if etag.startswith("W/") else etag
    if validator:
        tag.write_text(validator, encoding="utf-8")
    else:
        tag.unlink(missing_ok=True)


def _unpack(part: Path, member: str) -> None:
    """Put the one member of a zip in the zip's place."""
    unpacked = part.with_name(f"{part.name}.member")
    with zipfile.ZipFile(part) as archive:
        if member not in archive.namelist():
            held = ", ".join(archive.namelist()[:5])
            raise OSError(f"the zip holds no '{member}', but {held or 'nothing'}")
        with archive.open(member) as source, unpacked.open("wb") as target:
            shutil.copyfileobj(source, target, CHUNK)
    unpacked.replace(part)
