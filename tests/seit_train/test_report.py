"""The report of runs: numbers are those of the runs, the page stands alone, what lacks is said."""

import html
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from seit_train.cli.main import main
from seit_train.distributed import World
from seit_train.evaluate.trained import Trained
from seit_train.launch import train
from seit_train.metrics import METRICS
from seit_train.models.masking import fixed_plan
from seit_train.models.mtm import patch_ranks, unpatch
from seit_train.report import ReportOptions, report_on, sections
from seit_train.report.compared import as_text, differing, duration
from seit_train.report.curves import POINTS, draw_curves, thinned
from seit_train.report.encoder import encoder_of, last_attention, without_mixing
from seit_train.report.material import Lookups, Material, gather
from seit_train.report.page import render
from seit_train.report.records import read_records, shortest_names
from seit_train.report.sections.attention import heated, outlined
from seit_train.report.sections.completions import cover
from seit_train.report.sections.predictions import confusion, confusions, matrix_block
from seit_train.report.sections.projection import project
from seit_train.report.sections.segmentations import Segmentations, class_colours, painted
from seit_train.tasks.segment import UNKNOWN
from tests.house.test_adding import example
from tests.seit_train.test_tasks_segment import make_model, make_task, masked_batch
from tests.tokenstore.test_report import Page
from tests.toy_store import ToyStore, write_toy_store
from tokenstore.errors import Mismatch, TrainingError
from tokenstore.report.charts import curves

STEPS = "loop.precision=fp32"


@pytest.fixture
def classified(request_run) -> Path:
    return train(request_run("classify", STEPS, folder="classified")).run.folder


@pytest.fixture
def masked(request_run) -> Path:
    return train(request_run("mtm", STEPS, folder="masked")).run.folder


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def page_of(folder: Path, *words: object) -> str:
    told = run("report", *words, "-o", folder / "page.html")
    assert told.exit_code == 0, told.output
    return (folder / "page.html").read_text()


def material_of(folder: Path):
    (record,) = read_records([folder])
    material, problems, _ = gather(record, Lookups((), "val"), None, None)
    assert material is not None and problems == []
    return material


# --- what folders say


def test_curves_of_several_runs_share_their_axes(masked, request_run) -> None:
    other = train(request_run("mtm", STEPS, "batch_size=8", folder="other")).run.folder
    records = read_records([masked, other])
    loss = next(curve for curve in draw_curves(records) if curve.name == "loss")
    assert [line.place for line in loss.chart.lines] == [0, 1]
    ends = [float(line.points.split()[-1].split(",")[0]) for line in loss.chart.lines]
    left = loss.chart.left
    assert ends[0] - left == pytest.approx(2 * (ends[1] - left), abs=0.3), "images, not steps"
    assert loss.last[0] == [line for line in records[0].lines if "loss" in line][-1]["loss"]


def test_losses_of_two_tasks_are_drawn_apart(masked, classified) -> None:
    titles = [curve.title for curve in draw_curves(read_records([masked, classified]))]
    assert {"training loss (mtm)", "training loss (classify)", "learning rate"} <= set(titles)


def test_what_was_not_finite_is_left_out_and_counted(masked) -> None:
    with (masked / METRICS).open("a") as file:
        file.write(json.dumps({"step": 5, "epoch": 2.0, "loss": None}) + "\n")
    loss = next(curve for curve in draw_curves(read_records([masked])) if curve.name == "loss")
    assert loss.dropped == 1
    assert "1 value was not finite" in render(report_on([masked], ReportOptions()))


def test_long_curves_become_means_of_neighbours() -> None:
    points = [(x, float(x % 2)) for x in range(4 * POINTS)]
    short = thinned(points)
    assert len(short) <= POINTS and short[-1][0] == points[-1][0]
    assert all(y == 0.5 for _, y in short)
    assert thinned(points[:3]) == points[:3]


def test_only_settings_that_differ_are_listed(masked, request_run) -> None:
    other = train(request_run("mtm", STEPS, "lr=0.002", folder="other")).run.folder
    assert [row.key for row in differing(read_records([masked, other]))] == ["lr"]
    begun = train(request_run("mtm", STEPS, folder="begun", init=str(other))).run.folder
    (row,) = differing(read_records([masked, begun]))
    assert (row.key, row.values[1]) == ("init", "other")
    alone = {row.key: row.values for row in differing(read_records([masked]))}
    assert alone["lr"] == ("0.001",) and "store" in alone and "optim.betas" in alone


def test_a_run_is_called_by_the_shortest_end_of_its_path_that_is_its_own() -> None:
    assert shortest_names([Path("runs/a"), Path("runs/b")]) == ["a", "b"]
    assert shortest_names([Path("a/seed0"), Path("b/seed0")]) == ["a/seed0", "b/seed0"]


def test_a_folder_that_is_named_twice_is_read_once(masked) -> None:
    assert len(read_records([masked, masked / ".." / masked.name])) == 1


def test_numbers_are_written_as_people_read_them() -> None:
    assert as_text("val_top1", 0.59) == "59.0%"
    assert as_text("val_loss", 5.72245) == "5.722"
    assert as_text("val_loss", None) == "not finite"
    assert (duration(42), duration(384), duration(9000)) == ("42 s", "6 min", "2 h 30 min")


def test_a_curve_of_one_point_is_seen_and_none_is_no_chart() -> None:
    chart = curves({3: [(100, 0.5)]}, from_zero=True)
    assert chart is not None
    assert len(chart.lines[0].points.split()) == 2 and chart.lines[0].place == 3
    assert curves({0: []}, from_zero=False) is None


# --- what models see


def test_the_confusion_matrix_counts_labels_by_predictions() -> None:
    counts = confusion(torch.tensor([0, 0, 0, 1, 2]), torch.tensor([0, 2, 2, 1, 0]), 3)
    assert counts.tolist() == [[1, 0, 2], [0, 1, 0], [1, 0, 0]]
    assert confusions(counts) == [(0, 2, 2), (2, 0, 1)]
    assert matrix_block(counts, ("a", "b", "c")).counts[0] == (1, 0, 2)
    many = matrix_block(np.eye(40, dtype=np.int64), tuple(map(str, range(40))))
    assert many.picture is not None and many.counts == ()


def test_predictions_are_those_of_the_evaluation(classified) -> None:
    report = report_on([classified], ReportOptions())
    found = report.looks[0].found["Predictions"]
    best = report.records[0].best
    assert best is not None
    assert found.facts["top1"] == best["val_top1"]
    assert len(found.facts["worst"]) == 12


def test_attention_weights_give_what_the_block_gives(classified) -> None:
    material = material_of(classified)
    encoder = encoder_of(material.trained)
    batch = material.batch(material.numbers(3))
    with torch.no_grad():
        tokens = material.trained.task.policy.plain(batch.ranks)
        weights = last_attention(encoder, tokens)
        block, seen = encoder.blocks[-1], []
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        encoder(tokens)
        normed = block.norm1(seen[0])
        value = block.attn.qkv(normed).unflatten(-1, (3, 2, 16))[:, :, 2].transpose(1, 2)
        mixed = (weights @ value).transpose(1, 2).flatten(2)
        torch.testing.assert_close(block.attn.proj(mixed), block.attn(normed))
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))


def test_completions_fill_the_masked_places_only_and_with_the_likeliest_ranks(masked) -> None:
    trained = material_of(masked).trained
    batch = material_of(masked).batch(np.arange(4))
    with torch.no_grad():
        done = trained.task.complete(trained.model, batch)
    assert torch.equal(done.guessed[~done.masked], done.ranks[~done.masked])
    method = trained.task.method
    plan, counts = fixed_plan(batch.index, method.positions, method.scene.mask)
    with torch.no_grad():
        logits = trained.model(done.ranks, plan)
    for image in range(4):
        hidden = set(plan.masked[image, : counts[image]].tolist())
        shown = patch_ranks(done.masked[image : image + 1].long(), 2)[0, :, 0]
        assert {place for place, is_hidden in enumerate(shown) if is_hidden} == hidden
        for number in range(int(counts[image])):
            place = int(plan.masked[image, number])
            row, column = divmod(place, 4)
            window = done.guessed[image, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert torch.equal(window.flatten(), logits[image, number].argmax(dim=-1))


def test_unpatch_is_the_reverse_of_patch_ranks() -> None:
    ranks = torch.arange(2 * 8 * 12).view(2, 8, 12)
    assert torch.equal(unpatch(patch_ranks(ranks, 2), (8, 12), 2), ranks)
    assert torch.equal(unpatch(patch_ranks(ranks, 1), (8, 12), 1), ranks)


def test_masked_places_are_grey_in_the_picture() -> None:
    pictures, hidden = np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 2, 2), bool)
    hidden[0, 1, 0] = True
    covered = cover(pictures, hidden)
    assert covered[0, 4:, :4].min() == 128 and covered[0, :4].max() == covered[0, :, 4:].max() == 0


def test_projected_points_keep_their_distances_where_two_dimensions_suffice() -> None:
    points = torch.zeros(3, 2, 5)
    points[1, :, 3], points[2, 1, 1] = 4.0, 3.0
    flat, share = project(points)
    assert share == pytest.approx(1.0)
    before = torch.cdist(points.flatten(0, 1).double(), points.flatten(0, 1).double())
    after = torch.cdist(flat.flatten(0, 1), flat.flatten(0, 1))
    torch.testing.assert_close(after, before * (after.max() / before.max()))
    assert flat.min() >= 0 and flat.max() <= 1


def test_views_of_a_projection_are_not_mixed() -> None:
    inner = {"token_adapt": {"weights": "w", "mixup": 0.8, "cutmix": 1.0}}
    halves = {"halves": {"first": [inner], "rest": [{"cutmix": {}}, {"random_crop": {}}]}}
    first, second = without_mixing([{"eda": {}}, halves, {"mixup": {"alpha": 1.0}}])
    assert first == {"eda": {}}
    assert second["halves"]["rest"] == [{"random_crop": {}}]
    adapted = second["halves"]["first"][0]["token_adapt"]
    assert adapted == {"weights": "w", "mixup": 0.0, "cutmix": 0.0}


def test_the_brightest_place_of_a_map_is_where_most_attention_goes() -> None:
    weight = torch.zeros(4, 4)
    weight[1, 2] = 1.0
    seen = heated(np.zeros((32, 32, 3), np.uint8), weight).sum(axis=2)
    assert np.unravel_index(seen.argmax(), seen.shape)[0] // 8 == 1
    assert np.unravel_index(seen.argmax(), seen.shape)[1] // 8 == 2


def test_a_patch_is_outlined_and_not_covered() -> None:
    picture = np.full((32, 32, 3), 7, np.uint8)
    marked = outlined(picture, (1, 2), (4, 4))
    assert (marked[8:16, 16:24] == 7).all()
    assert (marked[7, 16:24] != 7).any() and (picture == 7).all()


# --- the page


def test_the_page_needs_nothing_else_and_shows_every_section(masked, classified, tmp_path) -> None:
    text = page_of(tmp_path, masked, classified)
    page = Page(text)
    assert not re.search(r"(src|href)=.?(https?:|//|file:)", text)
    assert all(dict(attrs)["src"].startswith("data:image/") for tag, attrs in page.tags
               if tag == "img")  # fmt: skip
    assert "script" not in {tag for tag, _ in page.tags}
    for title in (kind.title for kind in sections() if kind is not Segmentations):
        assert f"<h3>{title}</h3>" in text
    assert str(tmp_path) not in text, "no path of this machine gets about"
    links = [dict(a)["href"] for tag, a in page.tags if tag == "a"]
    assert set(links) <= {f"#{dict(a).get('id')}" for _, a in page.tags}


def test_the_same_runs_give_the_same_page(masked, classified) -> None:
    pages = [render(report_on([masked, classified], ReportOptions())) for _ in range(2)]
    assert pages[0] == pages[1]


def test_names_from_a_store_are_only_ever_text(request_run, tmp_path, masked) -> None:
    strange = tmp_path / "<b>run & co"
    masked.rename(strange)
    text = page_of(tmp_path, strange)
    assert "<b>run" not in text and html.escape("<b>run & co") in text


def test_json_tells_what_was_found(masked, tmp_path) -> None:
    told = run("report", masked, "-o", tmp_path / "page.html", "--json")
    (found,) = json.loads(told.stdout)
    assert (found["task"], found["step"], found["steps"]) == ("mtm", 4, 4)
    assert len(found["sections"]["Masked predictions"]["masked"]) == 9
    assert found["problems"] == []


def test_a_run_without_a_checkpoint_has_curves_and_a_line_why(masked, tmp_path) -> None:
    shutil.rmtree(masked / "checkpoints")
    text = page_of(tmp_path, masked)
    assert "It has no checkpoint yet" in text and "<polyline" in text and "<h3>" not in text


def test_a_store_that_moved_is_missed_and_then_named(request_run, store, tmp_path) -> None:
    own = tmp_path / "own.tokenstore"
    shutil.copytree(store.url, own)
    request = request_run("mtm", STEPS)
    folder = train(type(request)(**{**vars(request), "store": str(own)})).run.folder
    own.rename(tmp_path / "moved.tokenstore")
    assert "'own.tokenstore' cannot be read from here" in html.unescape(page_of(tmp_path, folder))
    assert "predicted" in page_of(tmp_path, folder, "--store", tmp_path / "moved.tokenstore")


def test_a_store_that_fits_no_run_is_refused(masked, tmp_path) -> None:
    other = write_toy_store(tmp_path / "o", ToyStore({"val": 8}, codes=20))
    with pytest.raises(Mismatch, match="fits none of these runs"):
        report_on([masked], ReportOptions(stores=(other.url,)))


def test_a_split_that_is_not_there_is_said(masked, tmp_path) -> None:
    text = html.unescape(page_of(tmp_path, masked, "--split", "test"))
    assert "has no split 'test': only curves" in text


def test_without_the_tokenizer_tokens_are_colours(masked, tmp_path, monkeypatch) -> None:
    from tests.toy_tokenizer import ToyTokenizer
    from tokenstore.errors import WeightsError

    def missing(request):
        raise WeightsError(f"no weights at {tmp_path}")

    monkeypatch.setattr(ToyTokenizer, "load", missing)
    text = html.unescape(page_of(tmp_path, masked))
    assert "weights of its tokenizer 'toy' are missing" in text
    assert "tokens as colours" in text and "predicted" in text and str(tmp_path) not in text


def test_a_task_that_offers_nothing_says_so(request_run, tmp_path) -> None:
    folder = train(request_run("toy")).run.folder
    assert "For runs of toy there is nothing else to show" in page_of(tmp_path, folder)


def test_what_a_kind_of_run_has_nothing_for_is_named(masked) -> None:
    report = report_on([masked], ReportOptions())
    assert report.looks[0].absent == ("Predictions", "Segmentation")
    assert "This run has nothing for: Predictions, Segmentation." in render(report)


def test_a_checkpoint_of_another_model_leaves_the_curves(masked, tmp_path) -> None:
    config = json.loads((masked / "config.json").read_text())
    config["model"]["encoder"]["width"] = 64
    (masked / "config.json").write_text(json.dumps(config))
    assert "Its checkpoint cannot be used (TrainingError)" in page_of(tmp_path, masked)


def test_a_folder_that_holds_no_run_is_refused(tmp_path) -> None:
    with pytest.raises(TrainingError, match="holds no run"):
        read_records([tmp_path])
    assert run("report", tmp_path, "-o", tmp_path / "no" / "page.html").exit_code == 2


# --- what segmenters paint


def test_classes_have_colours_of_their_own_and_unknown_pixels_are_black() -> None:
    colours = class_colours(40)
    assert len(np.unique(colours, axis=0)) == 40 and colours.max(axis=1).min() > 100
    seen = painted(torch.tensor([[[0, UNKNOWN]]]), colours)
    assert seen[0, 0, 0].tolist() == colours[0].tolist() and seen[0, 0, 1].max() == 0


def test_a_segmenter_is_judged_pixel_by_pixel_and_shown() -> None:
    torch.manual_seed(0)
    task = make_task()
    model, batch = make_model(task).eval(), masked_batch(count=5)
    run = SimpleNamespace(config=task.config)
    trained = Trained(run, task, model, World(0, 1, torch.device("cpu")))
    split = FakeSplit(batch.ranks.numpy().astype(np.uint16), batch.masks.numpy())
    material = Material(trained, split, lambda ranks: np.zeros((len(ranks), 32, 32, 3), np.uint8))
    assert Segmentations.serves(trained)
    found = Segmentations.look(material, 5)
    with torch.no_grad():
        metrics = task.evaluate(model, [batch])
    assert found.facts["miou"] == pytest.approx(metrics["val_miou"], abs=0.02)
    assert found.facts["pixel_accuracy"] == pytest.approx(metrics["val_pixel_accuracy"], abs=0.02)
    _, gallery, table = found.blocks
    assert [frame.what for frame in gallery.figures[0].frames] == ["image", "truth", "prediction"]
    assert {row[0] for row in table.rows} == set(task.masks.classes)


class FakeSplit:
    """As much of a split as a section reads."""

    name = "val"

    def __init__(self, ranks: np.ndarray, masks: np.ndarray) -> None:
        self.ranks, self.all_masks = ranks, masks

    def __len__(self) -> int:
        return len(self.ranks)

    def read(self, numbers: np.ndarray) -> SimpleNamespace:
        return SimpleNamespace(ranks=self.ranks[numbers], labels=None)

    def masks(self, numbers: np.ndarray) -> list[np.ndarray]:
        return list(self.all_masks[numbers])

    def keys(self, numbers: np.ndarray) -> None:
        return None


def test_the_section_of_the_docs_shows_what_the_model_sees(classified) -> None:
    section = example("A section")
    material = material_of(classified)
    assert section.serves(material.trained)
    (gallery,) = section.look(material, 100).blocks
    assert len(gallery.figures) == 4 and gallery.figures[0].name == material.names(np.array([0]))[0]
