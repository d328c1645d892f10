"""A machine that only reads stores needs no torch, Pillow or tokenizer, and starts quickly."""

import subprocess
import sys

HEAVY = ("torch", "torchvision", "PIL", "timm", "webdataset", "tokenstore.tokenizers")


def loaded_after(code):
    """Names of HEAVY modules and numba that a fresh interpreter has loaded after `code`."""
    names = (*HEAVY, "numba")
    report = f"import sys; print([n for n in {names!r} if n in sys.modules])"
    command = [sys.executable, "-c", f"{code}\n{report}"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return set(ran.stdout.strip().splitlines()[-1].strip("[]").replace("'", "").split(", ")) - {""}


def test_importing_tokenstore_loads_neither_torch_nor_numba():
    assert loaded_after("import tokenstore") == set()


def test_reading_a_store_loads_numpy_only(scene_store):
    code = f"""
import tokenstore
store = tokenstore.open({str(scene_store)!r})
batch = store["train"].read([3, 1], keys=True)
assert batch.ranks.shape[0] == 2 and len(batch.keys) == 2
assert store["train"][0].ranks.shape == store.manifest.grid
assert store.ids(batch.ranks).shape == batch.ranks.shape
assert store.codebook.dtype.name == "float32"
"""
    assert loaded_after(code) & set(HEAVY) == set()


def test_looking_at_a_store_from_the_shell_loads_no_torch(scene_store):
    for words in (["info", str(scene_store)], ["verify", str(scene_store)]):
        code = f"from tokenstore.cli.main import main; main({words!r}, standalone_mode=False)"
        assert loaded_after(code) & {"torch", "PIL"} == set()


def test_the_list_of_commands_loads_no_torch():
    code = "from tokenstore.cli.main import main; main(['--help'], standalone_mode=False)"
    assert loaded_after(code) & {"torch", "PIL"} == set()
