"""Damaged files of every format: an error of ours that names the folder, or samples; never a crash.

Labels, keys and the ids of formats without checksums can be changed unseen; what is promised here
is that nothing but a refusal or a survey comes of it.
"""

import random
import shutil

import pytest

from tests.small_store import Small, write_small_store
from tokenstore import registry
from tokenstore.errors import TokenstoreError
from tokenstore.interop.base import ImportRequest
from tokenstore.interop.exporting import export_store
from tokenstore.interop.importing import find_format
from tokenstore.interop.screening import Survey, screened

CASES = 60


def harmed(content, rng):
    """Cut, or with some bytes replaced."""
    content = bytearray(content)
    if rng.random() < 0.2:
        return bytes(content[: rng.randrange(len(content))])
    for _ in range(rng.choice([1, 1, 3, 20])):
        content[rng.randrange(len(content))] = rng.choice([0, 255, rng.randrange(256)])
    return bytes(content)


@pytest.mark.parametrize("kind", registry.names("tokenstore.interop"))
def test_a_damaged_input_is_refused_or_surveyed(kind, tmp_path):
    small = Small(counts=(("train", 6), ("val", 2)))
    store = write_small_store(tmp_path / "s", small).store
    export_store(store.url, kind, tmp_path / "whole")
    rng, refused = random.Random(kind), 0
    for case in range(CASES):
        place = shutil.copytree(tmp_path / "whole", tmp_path / f"case{case}")
        file = rng.choice(sorted(place.iterdir()))
        file.write_bytes(harmed(file.read_bytes(), rng))
        try:
            incoming = find_format(kind).open(ImportRequest(place))
            survey = Survey(incoming)
            for split in incoming.splits:
                for chunk in screened(incoming, split, keys=True):
                    survey.see(split, chunk)
            assert len(survey.listing()) == 64
        except TokenstoreError as error:
            refused += 1
            assert str(place) in str(error)
        shutil.rmtree(place)
    assert refused > CASES // 3
