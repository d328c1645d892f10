"""A store behind a real web server: nginx, its byte ranges, and its log of what was asked."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import tokenstore
from tests.small_store import write_small_store
from tests.toy_images import write_corpus

pytest.importorskip("aiohttp", reason="fsspec reads http through aiohttp, which is not installed")
NGINX = shutil.which("nginx")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")

CONFIG = """
daemon off; {user}
pid {place}/pid;
error_log {place}/error.log;
events {{}}
http {{
  log_format asked '$status $request_method $request_uri';
  access_log {place}/access.log asked;
  client_body_temp_path {place}/t1; proxy_temp_path {place}/t2; fastcgi_temp_path {place}/t3;
  uwsgi_temp_path {place}/t4; scgi_temp_path {place}/t5;
  server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


class Served:
    """A folder behind nginx."""

    def __init__(self, folder: Path, port: int, place: Path) -> None:
        self.folder, self.url, self._log = folder, f"http://127.0.0.1:{port}", place / "access.log"

    def answers(self) -> list[str]:
        """Status, method and path of each request so far."""
        return self._log.read_text().splitlines()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    root, place = tmp_path / "root", tmp_path / "nginx"
    root.mkdir()
    place.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    user = "user root;" if os.geteuid() == 0 else ""  # else it reads as somebody who may not
    config = CONFIG.format(place=place, port=port, root=root, user=user)
    (place / "conf").write_text(config)
    command = [
        str(NGINX),
        "-p",
        str(place),
        "-e",
        str(place / "error.log"),
        "-c",
        str(place / "conf"),
    ]
    process = subprocess.Popen(command)
    try:
        _wait(port)
        yield Served(root, port, place)
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait(port: int) -> None:
    for _ in range(300):
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
    raise TimeoutError("nginx does not answer")


def test_samples_come_by_ranges_and_equal_those_on_the_disk(served: Served) -> None:
    local = write_small_store(served.folder / "s").store
    remote = tokenstore.open(f"{served.url}/s")
    numbers = [17, 3, 8]
    assert np.array_equal(remote["train"].read(numbers).ranks, local["train"].read(numbers).ranks)
    assert any(line.startswith("206 GET") and ".tar" in line for line in served.answers())
    assert not any(line.startswith("200 GET") and ".tar" in line for line in served.answers())


def test_a_cache_fetches_each_shard_once(served: Served, tmp_path: Path) -> None:
    local = write_small_store(served.folder / "s").store
    remote = tokenstore.open(f"{served.url}/s", cache=tmp_path / "cache")
    everything = np.arange(len(local["train"]))
    for _ in range(2):
        found = remote["train"].read(everything).ranks
        assert np.array_equal(found, local["train"].read(everything).ranks)
    tars = [line for line in served.answers() if "GET" in line and line.endswith(".tar")]
    assert len(tars) == len(set(tars)) == 3


def test_a_store_is_built_from_a_tar_behind_it(
    served: Served, tmp_path: Path, toy_tokenizer: None
) -> None:
    from click.testing import CliRunner

    from tokenstore.cli.main import main

    corpus = write_corpus(tmp_path / "photos", {"train": 6})
    shutil.make_archive(str(served.folder / "photos"), "tar", corpus)
    places = (f"{served.url}/photos.tar", served.folder / "photos.tar")
    for place, out in zip(places, ("remote", "local"), strict=True):
        words = ["build", str(place), "-o", str(tmp_path / out), "--tokenizer", "toy"]
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.output
    stores = [tokenstore.open(tmp_path / out) for out in ("remote", "local")]
    assert stores[0].fingerprint == stores[1].fingerprint
