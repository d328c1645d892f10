"""Where weights come from: a file, the cache, or a place on the web that a thread plays here."""

import contextlib
import hashlib
import io
import multiprocessing
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tokenstore.errors import WeightsError
from tokenstore.tokenizers import download
from tokenstore.tokenizers.weights import Published, cache_folder, cached, locate_weights

CONTENT = bytes(range(256)) * 20_000  # 5 MB


@dataclass
class Place:
    """What the server does; `asked` lists (path, Range header) of the requests."""

    content: bytes = CONTENT
    headers: dict = field(default_factory=lambda: {"ETag": '"one"'})
    knows_ranges: bool = True
    breaks_off_after: int | None = None
    says_length: bool = True
    status: int | None = None
    asked: list = field(default_factory=list)
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        place = self.server.place
        asked = self.headers.get("Range")
        place.asked.append((self.path, asked))
        begin = 0
        unchanged = self.headers.get("If-Range") in place.headers.values()
        if asked and place.knows_ranges and unchanged:
            begin = int(asked.removeprefix("bytes=").removesuffix("-"))
        if begin >= len(place.content) or place.status:
            return self.send_error(place.status or 416)
        self.send_response(206 if begin else 200)
        body = place.content[begin:]
        if begin:
            end = f"{len(place.content) - 1}/{len(place.content)}"
            self.send_header("Content-Range", f"bytes {begin}-{end}")
        if place.says_length:
            self.send_header("Content-Length", str(len(body)))
        for name, value in place.headers.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the other side may have heard enough
            self.wfile.write(body[: place.breaks_off_after])
        return None

    def log_message(self, *_):
        pass


@pytest.fixture
def place():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.place = Place(url=f"http://127.0.0.1:{server.server_port}/files/last.ckpt?dl=1")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.place
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TOKENSTORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def published(place):
    return Published("model.ckpt", place.url, "https://example.org/model", "MIT")


def test_published_weights_are_fetched_once_with_their_hash_and_serve_without_network(
    place, published, cache, capsys
):
    assert not cached(published)
    file = locate_weights("vqgan", None, published)
    assert file == cache / "model.ckpt"
    assert file.read_bytes() == CONTENT
    expected = f"{hashlib.sha256(CONTENT).hexdigest()}  model.ckpt\n"
    assert (cache / "model.ckpt.sha256").read_text() == expected
    assert cached(published)
    place.status = 404
    assert locate_weights("vqgan", None, published) == file
    assert len(place.asked) == 1
    assert capsys.readouterr().out == ""
    leftovers = {one.name for one in cache.iterdir()} - {"model.ckpt", "model.ckpt.sha256"}
    assert leftovers <= {"model.ckpt.lock"}


def test_a_url_of_the_user_is_kept_under_a_name_of_its_own(place, cache):
    file = locate_weights("vqgan", place.url, None)
    assert file.parent == cache
    assert file.name.endswith("-last.ckpt")
    other = locate_weights("vqgan", place.url.replace("files", "elsewhere"), None)
    assert other != file
    assert other.read_bytes() == file.read_bytes() == CONTENT
    assert locate_weights("vqgan", place.url, None) == file
    assert len(place.asked) == 2


def test_a_file_of_the_user_is_used_where_it_lies(tmp_path, cache):
    file = tmp_path / "mine.ckpt"
    file.write_bytes(b"mine")
    assert locate_weights("vqgan", str(file), None) == file
    assert not cache.exists()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["mine.ckpt"]
    with pytest.raises(WeightsError, match="there is no file '.*absent.ckpt'"):
        locate_weights("vqgan", str(tmp_path / "absent.ckpt"), None)


def test_a_file_put_into_the_cache_by_hand_serves_and_is_held_to_its_hash(place, published, cache):
    cache.mkdir()
    (cache / "model.ckpt").write_bytes(b"by hand")
    assert locate_weights("vqgan", None, published).read_bytes() == b"by hand"
    assert place.asked == []
    (cache / "model.ckpt").write_bytes(b"another file")
    with pytest.raises(WeightsError, match=r"has changed: its sha256 .* delete '.*ckpt.sha256'"):
        locate_weights("vqgan", None, published)


def test_a_published_file_that_changed_since_is_refused(place, published, cache):
    locate_weights("vqgan", None, published).unlink()
    place.content = CONTENT[::-1]
    with pytest.raises(WeightsError, match="has changed"):
        locate_weights("vqgan", None, published)


def broken_off(place, published, after):
    place.breaks_off_after = after
    with pytest.raises(WeightsError, match=rf"broke off at {after:,} of {len(place.content):,}"):
        locate_weights("vqgan", None, published)
    assert not cached(published)
    place.breaks_off_after = None


@pytest.mark.parametrize("validator", ["ETag", "Last-Modified"])
def test_a_fetch_that_broke_off_goes_on_where_it_was(place, published, cache, validator):
    place.headers = {validator: "Sat, 21 Nov 2026 06:00:00 GMT" if validator[0] == "L" else '"x"'}
    broken_off(place, published, 3_000_000)
    assert (cache / "model.ckpt.part").stat().st_size == 3_000_000
    assert locate_weights("vqgan", None, published).read_bytes() == CONTENT
    assert [asked for _, asked in place.asked] == [None, "bytes=3000000-"]


def test_a_server_without_ranges_makes_it_start_anew(place, published):
    broken_off(place, published, 3_000_000)
    place.knows_ranges = False
    assert locate_weights("vqgan", None, published).read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_never_mixed(place, published):
    broken_off(place, published, 3_000_000)
    place.content, place.headers = CONTENT[::-1], {"ETag": '"two"'}
    assert locate_weights("vqgan", None, published).read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"weak"'}])
def test_without_a_strong_validator_it_starts_anew(place, published, headers):
    place.headers = headers
    broken_off(place, published, 3_000_000)
    assert locate_weights("vqgan", None, published).read_bytes() == CONTENT
    assert [asked for _, asked in place.asked] == [None, None]


def test_a_part_that_is_longer_than_the_file_is_thrown_away(place, published, cache):
    cache.mkdir()
    (cache / "model.ckpt.part").write_bytes(CONTENT + b"too much")
    (cache / "model.ckpt.part.tag").write_text('"one"')
    assert locate_weights("vqgan", None, published).read_bytes() == CONTENT
    assert [asked for _, asked in place.asked] == [f"bytes={len(CONTENT) + 8}-", None]


def test_another_part_than_asked_for_is_refused(place, published, cache, monkeypatch):
    broken_off(place, published, 1_000_000)
    (cache / "model.ckpt.part").write_bytes(CONTENT[:999_999])
    asked = download.Request

    def request(url, headers):
        return asked(url, headers=headers | {"Range": "bytes=5-"})

    monkeypatch.setattr(download, "Request", request)
    with pytest.raises(WeightsError, match="another part than it was asked for"):
        locate_weights("vqgan", None, published)
    monkeypatch.undo()
    assert not (cache / "model.ckpt.part").exists()


def test_a_server_that_does_not_say_the_length_is_believed(place, published):
    place.says_length = False
    assert locate_weights("vqgan", None, published).read_bytes() == CONTENT


def zipped(**members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def test_only_the_named_member_of_a_zip_is_taken(place, cache):
    place.content = zipped(
        **{"../evil.ckpt": b"evil", "model.ckpt": CONTENT, "x/model.ckpt": b"no"}
    )
    published = Published("vq-f8.ckpt", place.url, "https://example.org", "MIT", "model.ckpt")
    assert locate_weights("vqgan-f8", None, published).read_bytes() == CONTENT
    names = {one.name for one in cache.parent.rglob("*") if one.is_file()}
    assert names - {"vq-f8.ckpt.lock"} == {"vq-f8.ckpt", "vq-f8.ckpt.sha256"}


def test_a_zip_without_the_member_and_a_broken_one_are_refused(place):
    published = Published("vq-f8.ckpt", place.url, "https://example.org", "MIT", "model.ckpt")
    place.content = zipped(other=b"1")
    with pytest.raises(WeightsError, match="holds no 'model.ckpt', but other"):
        locate_weights("vqgan-f8", None, published)
    place.content = b"PK no zip at all"
    with pytest.raises(WeightsError, match="not a zip file"):
        locate_weights("vqgan-f8", None, published)
    place.content = zipped(**{"model.ckpt": CONTENT})
    assert locate_weights("vqgan-f8", None, published).read_bytes() == CONTENT


def test_a_web_page_in_place_of_the_file_is_refused(place, published):
    place.headers = {"Content-Type": "text/html; charset=utf-8"}
    with pytest.raises(WeightsError, match="gives a web page instead of a file"):
        locate_weights("vqgan", None, published)
    assert not cached(published)


@pytest.mark.parametrize("status", [403, 404, 500])
def test_without_the_file_the_error_says_what_to_get_and_where_to_put_it(
    place, published, cache, status
):
    place.status = status
    with pytest.raises(WeightsError) as caught:
        locate_weights("vqgan", None, published)
    message = str(caught.value)
    for word in (
        str(status),
        place.url,
        published.page,
        str(cache / "model.ckpt"),
        "--weights FILE",
    ):
        assert word in message


def test_without_network_the_error_says_what_to_get_and_where_to_put_it(cache):
    published = Published("m.ckpt", "http://127.0.0.1:9/m.zip", "https://page", "MIT", "model.ckpt")
    with pytest.raises(WeightsError, match="cannot fetch .*refused") as caught:
        locate_weights("vqgan", None, published)
    assert f"'model.ckpt' of the zip from https://page and put it at '{cache / 'm.ckpt'}'" in str(
        caught.value
    )


def test_weights_that_were_never_released_are_said_to_be():
    published = Published("large.ckpt", None, "https://page", "MIT")
    with pytest.raises(WeightsError, match=r"never released .*Pass your own with --weights"):
        locate_weights("vit-vqgan-large", None, published)
    with pytest.raises(WeightsError, match="no published weights"):
        locate_weights("mine", None, None)


@pytest.mark.parametrize("url", ["ftp://host/x.ckpt", "file:///etc/passwd", "s3://bucket/x"])
def test_only_http_is_fetched(url):
    with pytest.raises(WeightsError, match=r"is no http\(s\) address; get it by other means"):
        locate_weights("vqgan", url, None)


def test_threads_and_processes_that_want_the_same_file_fetch_it_once(place, published, cache):
    with ThreadPoolExecutor(4) as pool:
        files = list(pool.map(lambda _: locate_weights("vqgan", None, published), range(4)))
    assert len(place.asked) == 1
    assert {file.read_bytes() for file in files} == {CONTENT}
    (cache / "model.ckpt").unlink()
    spawn = multiprocessing.get_context("spawn")
    arguments = (place.url, cache / "model.ckpt", None, "")
    workers = [spawn.Process(target=download.fetch, args=arguments) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(place.asked) == 2
    assert (cache / "model.ckpt").read_bytes() == CONTENT


def test_the_cache_is_where_the_variable_says_or_where_the_platform_keeps_such(monkeypatch):
    monkeypatch.setenv("TOKENSTORE_CACHE", "~/here")
    assert cache_folder() == Path.home() / "here"
    monkeypatch.delenv("TOKENSTORE_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/tokenstore")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "tokenstore"
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_folder() == Path.home() / "Library" / "Caches" / "tokenstore"
