"""Checkpoints made to run code or to exhaust the memory, and files that are no checkpoints.

Each hostile file would, under a plain unpickler, create the file `marker`; a test proves that it
does, and that reading it here does not.
"""

import io
import os
import pickle
import struct
import tarfile
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from tokenstore.errors import WeightsError
from tokenstore.tokenizers.checkpoints import read_checkpoint, read_tensor

LEGACY_HEAD = b"".join(
    pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
)


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def text(value):
    """A string as a protocol 0 pickle has it."""
    return f"V{value}\n".encode()


def pickled(name, argument, form):
    """A pickle by hand that calls the global `module name` with one text."""
    module, _, attribute = name.partition(" ")
    by_line = f"{module}\n{attribute}\n".encode()
    short = b"".join(b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, attribute))
    return {
        "GLOBAL, protocol 0": b"c" + by_line + b"(" + text(argument) + b"tR.",
        "GLOBAL, protocol 2": b"\x80\x02c" + by_line + text(argument) + b"\x85R.",
        "STACK_GLOBAL": b"\x80\x04" + short + b"\x93" + text(argument) + b"\x85R.",
        "INST": b"(" + text(argument) + b"i" + by_line + b".",
        "OBJ": b"(c" + by_line + text(argument) + b"o.",
    }[form]


FORMS = ("GLOBAL, protocol 0", "GLOBAL, protocol 2", "STACK_GLOBAL", "INST", "OBJ")


def as_zip(file, pickle_bytes, **records):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle_bytes)
        for name, content in records.items():
            archive.writestr(f"archive/{name}", content)
    return file


def as_legacy(file, pickle_bytes):
    file.write_bytes(LEGACY_HEAD + pickle_bytes + pickle.dumps([], 2))
    return file


def as_bare_pickle(file, pickle_bytes):
    file.write_bytes(pickle_bytes)
    return file


CONTAINERS = (as_zip, as_legacy, as_bare_pickle)


def refusal(file, reader=read_checkpoint):
    with pytest.raises(WeightsError) as caught:
        reader(file)
    message = str(caught.value)
    assert str(file) in message
    assert len(message) < 700
    return message


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("container", CONTAINERS)
def test_a_call_of_os_system_is_refused_by_name_in_every_form(tmp_path, container, form):
    marker = tmp_path / "marker"
    attack = pickled("posix system", f"touch {marker}", form)
    file = container(tmp_path / "x.ckpt", attack)
    for reader in (read_checkpoint, read_tensor):
        assert "refers to posix.system (os.system)" in refusal(file, reader)
    assert not marker.exists()
    pickle.loads(attack)
    assert marker.exists(), "the attack is none, so this test shows nothing"


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    ("function", "named"),
    [(eval, "builtins.eval"), (exec, "builtins.exec"), (getattr, "builtins.getattr")],
)
def test_builtins_that_run_code_are_refused(tmp_path, container, protocol, function, named):
    attack = pickle.dumps({"state_dict": {"w": Calls(function, "1")}}, protocol)
    assert f"refers to {named}" in refusal(container(tmp_path / "x.ckpt", attack))


@pytest.mark.parametrize(
    "name",
    [
        *("os system", "nt system", "subprocess Popen", "runpy run_path", "pty spawn", "sys exit"),
        *("shutil rmtree", "webbrowser open", "importlib import_module", "pickle loads", "io open"),
        *("operator attrgetter", "types FunctionType", "codecs open", "copyreg add_extension"),
        *("__builtin__ eval", "__builtin__ __import__", "commands getoutput", "builtins open"),
        *("builtins getattr", "builtins object.__subclasses__", "torch os.system", "_io FileIO"),
        *("torch.serialization os.system", "torch.Tensor __class__.__base__"),
        *("code InteractiveInterpreter", "functools reduce", "asyncio run", "os.path join"),
    ],
)
def test_a_name_without_business_in_a_checkpoint_is_refused_even_uncalled(tmp_path, name):
    module, _, attribute = name.partition(" ")
    reference = b"\x80\x02}X\x01\x00\x00\x00kc" + f"{module}\n{attribute}\n".encode() + b"s."
    message = refusal(as_zip(tmp_path / "x.ckpt", reference))
    assert f"{module.replace('__builtin__', 'builtins')}.{attribute}" in message


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "name",
    [
        *("torch.hub load", "torch load", "numpy.testing._private.utils runstring", "pip main"),
        *("torch.jit.unsupported_tensor_ops execWrapper", "torch.storage _load_from_bytes"),
        *("torch.utils.cpp_extension load_inline", "pandas read_pickle", "joblib load"),
    ],
)
def test_a_call_of_a_function_of_another_package_is_refused(tmp_path, name, form):
    attack = pickled(name, "x", form)
    assert f"calls {name.replace(' ', '.')}" in refusal(as_zip(tmp_path / "x.ckpt", attack))


def test_an_attack_that_is_nested_beside_good_tensors_is_refused(tmp_path):
    marker = tmp_path / "marker"
    attack = Calls(os.system, f"touch {marker}")
    good = {"encoder.weight": torch.zeros(2)}
    for number, content in enumerate(
        [
            {"state_dict": good, "callbacks": {attack: {}}},
            {"state_dict": good, "hyper_parameters": [[{"x": (attack,)}]]},
            {"state_dict": OrderedDict(good, hidden=attack)},
            {"model": good, "args": attack},
        ]
    ):
        for zipped in (True, False):
            file = tmp_path / f"{number}{zipped}.ckpt"
            torch.save(content, file, _use_new_zipfile_serialization=zipped)
            assert "posix.system" in refusal(file)
    assert not marker.exists()


def test_an_attack_among_the_storages_of_a_legacy_file_is_refused(tmp_path):
    attack = pickled("posix system", "true", "GLOBAL, protocol 2")
    tail = pickle.dumps({"a": 1}, 2) + attack
    (tmp_path / "x.ckpt").write_bytes(LEGACY_HEAD + tail)
    assert "posix.system" in refusal(tmp_path / "x.ckpt")
    (tmp_path / "y.ckpt").write_bytes(attack + LEGACY_HEAD)
    assert "posix.system" in refusal(tmp_path / "y.ckpt")


def test_copyreg_cannot_bring_in_a_function(tmp_path):
    call = b"\x80\x02ccopy_reg\n_reconstructor\nctorch.hub\nload\nX\x01\x00\x00\x00a\x86R."
    assert "calls torch.hub.load" in refusal(as_zip(tmp_path / "x.ckpt", call))


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02\x82\x01.",  # EXT1: an object that only the writer's process knew
        b"\x80\x02\x83\x01\x00.",
        b"\x80\x02\x84\x01\x00\x00\x00.",
        b"P0\n.",  # PERSID
        b"\x80\x05\x97.",  # NEXT_BUFFER
        b"\x80\x02R.",  # REDUCE without operands
        b"\x80\x02K\x01K\x02\x86K\x01R.",  # calls a tuple
        b"\x80\x02ccollections\nOrderedDict\n}b.",  # sets the state of a class
        b"\x80\x02K\x01}b.",
        b"\x80\x02K\x01K\x02a.",  # appends to a number
        b"\x80\x02]K\x01K\x02s.",
        b"\x80\x02h\x07.",  # memo 7, which nobody put
        b"\x80\x02t.",  # a tuple without a mark
        b"\x80\x02\x86.",
        b"\x80\x02u.",
        b"\x80\x02}(K\x01u.",  # a key without a value
        b"\x80\x02.",
        b"\x80\x02K\x01",  # no end
        b"\x80\x02\xff.",
        b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nK\x01\x85R.",
        b"\x80\x02(K\x01K\x02tQ.",
        b"\x80\x02X\x07\x00\x00\x00storageK\x01\x86Q.",
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",  # BYTEARRAY8 of 2**63 bytes
        b"\x80\x02\x8b\xff\xff\xff\x7f.",  # LONG4 of 2 GiB
        b"I" + b"9" * 10_000 + b"\n.",
        b"ca\\(\nb\n.",  # a wrong escape
    ],
)
@pytest.mark.parametrize("container", CONTAINERS)
def test_a_program_that_makes_no_sense_is_an_error_without_a_traceback(
    tmp_path, container, program
):
    refusal(container(tmp_path / "x.ckpt", program))


def test_names_with_control_characters_do_not_reach_the_terminal(tmp_path):
    name = b"\x80\x04\x8c\x05\x1b[31m\x8c\x01x\x93."
    assert r"refers to \x1b[31m.x" in refusal(as_zip(tmp_path / "x.ckpt", name))
    torch.save({"w": torch.ones(1), "\x1b[31m": 1}, tmp_path / "y.ckpt")
    assert r"'\x1b[31m' is no plain tensor" in refusal(tmp_path / "y.ckpt")


def test_keys_nested_a_hundred_thousand_deep_neither_crash_nor_pass(tmp_path):
    key = b")" + b"\x85" * 100_000
    refusal(as_zip(tmp_path / "x.ckpt", b"\x80\x02}" + key + b"K\x01s."))
    lists = b"]" * 100_000 + b"a" * 99_999
    refusal(as_zip(tmp_path / "y.ckpt", b"\x80\x02" + lists + b"."))
    (tmp_path / "l.ckpt").write_bytes(LEGACY_HEAD + b"\x80\x02}.\x80\x02" + lists + b".")
    assert "list of storages" in refusal(tmp_path / "l.ckpt")
    storage = b"X\x07\x00\x00\x00storage" + b"ctorch\nFloatStorage\n" + lists
    refusal(as_zip(tmp_path / "z.ckpt", b"\x80\x02(" + storage + b"K\x01K\x01tQ."))


def test_a_memo_number_of_four_milliards_costs_no_memory(tmp_path):
    program = b"\x80\x02}X\x01\x00\x00\x00ar\xff\xff\xff\xffK\x01s."
    assert "holds no model" in refusal(as_zip(tmp_path / "x.ckpt", program))


def save_tensor(file, count, shape, strides, content=b"\0" * 16, offset=0, **records):
    """A checkpoint {"w": tensor} that claims what it is told to."""

    def unsigned(number):
        return pickle.dumps(number, 2)[2:-1]

    def numbers(values):
        return b"(" + b"".join(unsigned(value) for value in values) + b"t"

    storage = (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    )
    storage += unsigned(count) + b"tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + unsigned(offset)
    tensor += numbers(shape) + numbers(strides) + b"\x89}tR"
    dictionary = b"\x80\x02}X\x01\x00\x00\x00w" + tensor + b"s."
    return as_zip(file, dictionary, **{"data/0": content, **records})


def test_a_tensor_made_by_hand_is_read(tmp_path):
    content = struct.pack("<4f", 1, 2, 3, 4)
    file = save_tensor(tmp_path / "x.ckpt", 4, (2, 2), (1, 2), content)
    assert read_checkpoint(file).tensors["w"].tolist() == [[1, 3], [2, 4]]


@pytest.mark.parametrize(
    ("count", "shape", "strides", "offset"),
    [
        (4, (5,), (1,), 0),
        (4, (2,), (1,), 3),
        (4, (2, 2), (3, 1), 0),
        (2**40, (2**40,), (1,), 0),
        (2**62, (2**62,), (1,), 0),
        (2**70, (2**70,), (1,), 0),
        (4, (10**6, 10**6), (0, 0), 0),
        (4, (-1,), (1,), 0),
        (4, (2,), (-1,), 1),
        (4, (1,), (1,), -1),
        (-4, (1,), (1,), 0),
        (4, (2, 2), (1,), 0),
        (4, (0, 2**62, 2**62), (1, 1, 1), 0),
        (8, (8,), (1,), 0),
    ],
)
def test_a_tensor_that_claims_more_than_there_is_is_refused(
    tmp_path, count, shape, strides, offset
):
    file = save_tensor(tmp_path / "x.ckpt", count, shape, strides, offset=offset)
    assert "whole" in refusal(file) or "'w'" in refusal(file)


def test_bytes_that_are_not_what_the_zip_promised_are_refused(tmp_path):
    file = save_tensor(tmp_path / "x.ckpt", 4, (4,), (1,), b"\x11" * 16)
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"\x11" * 16, b"\x11" * 15 + b"\x12"))
    assert "tensor 'w' cannot be read" in refusal(file)


def test_a_zip_that_was_packed_anew_with_compression_is_refused(tmp_path):
    file = save_tensor(tmp_path / "x.ckpt", 4 * 10**6, (4 * 10**6,), (1,), b"\0" * 16 * 10**6)
    packed = tmp_path / "y.ckpt"
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as out:
        for name in source.namelist():
            out.writestr(name, source.read(name))
    assert "packed anew" in refusal(packed)


def test_a_big_endian_file_is_refused(tmp_path):
    file = save_tensor(tmp_path / "x.ckpt", 4, (4,), (1,), byteorder=b"big")
    assert "big-endian" in refusal(file)
    head = b"".join(
        pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": False})
    )
    (tmp_path / "y.ckpt").write_bytes(head)
    assert "big-endian" in refusal(tmp_path / "y.ckpt")


def test_tensors_that_share_their_numbers_a_thousandfold_are_refused(tmp_path):
    shared = torch.zeros(1000, dtype=torch.uint8)
    torch.save({str(number): shared for number in range(1000)}, tmp_path / "x.ckpt")
    assert "by sharing them" in refusal(tmp_path / "x.ckpt")


def test_a_torchscript_program_is_refused(tmp_path):
    file = save_tensor(
        tmp_path / "x.pt", 4, (4,), (1,), **{"constants.pkl": b"\x80\x02).", "code/a": b""}
    )
    assert "TorchScript" in refusal(file)


def test_a_tar_as_oldest_torch_wrote_is_refused(tmp_path):
    with tarfile.open(tmp_path / "x.ckpt", "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            attack = pickled("posix system", "true", "GLOBAL, protocol 2")
            member = tarfile.TarInfo(name)
            member.size = len(attack)
            archive.addfile(member, io.BytesIO(attack))
    assert "tar" in refusal(tmp_path / "x.ckpt")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html><body>Log in</body></html>", "web page"),
        (b"\n\n  <html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git-lfs pointer"),
        (b"\x1f\x8b\x08\x00" + b"\0" * 40, "compressed archive"),
        (b"PK\x03\x04" + b"\0" * 40, "damaged zip"),
        (b"{}" * 40, "neither a whole torch file nor safetensors"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "neither a whole torch file nor safetensors"),
        (b"\0" * 1000, "neither a whole torch file nor safetensors"),
        (pickle.dumps({"a": 1}), "no torch checkpoint"),
    ],
)
@pytest.mark.parametrize("name", ["x.ckpt", "x.safetensors"])
def test_a_file_of_another_kind_is_called_what_it_is(tmp_path, content, said, name):
    (tmp_path / name).write_bytes(content)
    message = refusal(tmp_path / name)
    assert said in message or (name == "x.safetensors" and "no whole safetensors" in message)


def test_a_folder_and_a_missing_file_are_named(tmp_path):
    assert "is a folder" in refusal(tmp_path)
    assert "there is no file" in refusal(tmp_path / "absent.ckpt")


def test_a_zip_of_other_files_lists_them(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.ckpt", "w") as archive:
        archive.writestr("model.ckpt", b"inside")
    assert "model.ckpt" in refusal(tmp_path / "x.ckpt")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_cut_anywhere_is_refused(tmp_path, zipped):
    whole = tmp_path / "whole.ckpt"
    content = {"state_dict": {"a": torch.arange(8.0), "b": torch.arange(3.0)}}
    torch.save(content, whole, _use_new_zipfile_serialization=zipped)
    everything = whole.read_bytes()
    cut = tmp_path / "cut.ckpt"
    for length in range(0, len(everything) - 1, 7):
        cut.write_bytes(everything[:length])
        refusal(cut)


def damaged(content, rng):
    """One to three bytes of it changed, lost or added."""
    result = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        at, kind = rng.integers(len(result)), rng.integers(3)
        new = bytes(rng.choice(list(b"().0Rbqtu}]sac\x81\x85\x86\x8a\x94"), 1).astype("u1"))
        result[at : at + (kind != 2)] = b"" if kind == 1 else new
    return bytes(result)


@pytest.mark.parametrize("zipped", [True, False])
def test_random_damage_is_refused_or_harmless_but_never_a_traceback(tmp_path, zipped):
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    torch.save({"state_dict": module.state_dict()}, tmp_path / "whole.ckpt")
    with zipfile.ZipFile(tmp_path / "whole.ckpt") as archive:
        records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    program = records.pop("data.pkl")
    legacy = tmp_path / "legacy.ckpt"
    torch.save(module.state_dict(), legacy, _use_new_zipfile_serialization=False)
    rng, refused = np.random.default_rng(0), 0
    for _ in range(300):
        if zipped:
            file = as_zip(tmp_path / "x.ckpt", damaged(program, rng), **records)
        else:
            file = as_bare_pickle(tmp_path / "x.ckpt", damaged(legacy.read_bytes(), rng))
        try:
            read_checkpoint(file)
        except WeightsError:
            refused += 1
    assert 100 < refused < 300
