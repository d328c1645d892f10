"""Exported files: what they take, that they say what the run says, and refusals."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from seit_train import exporting
from seit_train.cli.main import main
from seit_train.evaluate.on_images import OWN_PLACE, open_gallery
from seit_train.evaluate.trained import load_trained
from seit_train.exporting import export
from seit_train.launch import train
from tokenstore.errors import TrainingError, UsageError


def program(file):
    return torch.export.load(file).module()


@pytest.mark.parametrize("name", ["codebook", "ids"])
def test_pictures_go_in_and_the_runs_logits_come_out(grey_runs, greys, tmp_path, name):
    trained, file = grey_runs[name], tmp_path / "m.pt2"
    found = export(trained, file, False, OWN_PLACE)
    assert (found.input, found.output) == ("images uint8 [n,32,32,3]", "logits float32 [n,3]")
    gallery = open_gallery(trained, greys)
    (decoded,) = gallery.decoded()
    with torch.no_grad():
        expected = trained.task.logits(trained.model, gallery.batch(decoded))
        for count in (1, 24):  # any number of pictures
            said = program(file)(torch.from_numpy(decoded.images[:count]))
            torch.testing.assert_close(said, expected[:count], rtol=1e-4, atol=1e-4)
    notes = {"model.json": ""}
    torch.export.load(file, extra_files=notes)
    assert json.loads(notes["model.json"])["classes"] == ["grey0", "grey1", "grey2"]


def test_ids_go_in_and_an_unknown_one_gives_nan(grey_runs, tmp_path):
    trained, file = grey_runs["codebook"], tmp_path / "m.pt2"
    export(trained, file, True, OWN_PLACE)
    ids = torch.from_numpy(trained.run.store.vocabulary.ids.astype(np.int64))
    grids = ids[torch.randint(len(ids), (2, 4, 4), generator=torch.Generator().manual_seed(0))]
    unknown = next(number for number in range(int(ids.max())) if number not in ids)
    assert program(file)(grids).isfinite().all()
    grids[1, 2, 3] = unknown
    assert program(file)(grids).isfinite().all(dim=1).tolist() == [True, False]


@pytest.mark.parametrize("words", [[], ["--ids"]])
def test_onnx_says_the_same(grey_runs, tmp_path, words):
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra export")
    trained, file = grey_runs["ids"], tmp_path / "m.onnx"
    ran = CliRunner().invoke(
        main, ["export", str(trained.run.folder), "-o", str(file), "--json", *words]
    )
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)["difference"] < 1e-4
    session = runtime.InferenceSession(str(file))
    (given,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (given.name, logits.name) == ("ids" if words else "images", "logits")
    notes = json.loads(session.get_modelmeta().custom_metadata_map["model"])
    assert notes["preprocess"] == {"rule": "center-crop", "size": [32, 32]}


def test_a_file_that_says_something_else_is_not_kept(grey_runs, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "_run_pt2", lambda file, example, name: np.ones((3, 3)))
    with pytest.raises(TrainingError, match="differ from the run's by"):
        export(grey_runs["ids"], tmp_path / "m.pt2", True, OWN_PLACE)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_refused(grey_runs, tmp_path, request_run):
    with pytest.raises(UsageError, match=r"neither \.onnx nor \.pt2"):
        export(grey_runs["ids"], tmp_path / "m.bin", True, OWN_PLACE)
    taken = tmp_path / "m.pt2"
    taken.touch()
    with pytest.raises(UsageError, match="exists"):
        export(grey_runs["ids"], taken, True, OWN_PLACE)
    masked = load_trained(train(request_run("mtm", "steps=1")).run.folder)
    with pytest.raises(UsageError, match="mtm does not"):
        export(masked, tmp_path / "other.pt2", True, OWN_PLACE)
