"""The report of a store: its numbers are the store's, its page stands alone and trusts no name."""

import html
import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tests.small_store import Small, write_small_store
from tests.toy_images import write_corpus
from tests.toy_store import ToyStore, write_toy_store
from tokenstore import registry
from tokenstore.cli.main import main
from tokenstore.codecs.base import CodecSpec
from tokenstore.codecs.gzip import Gzip
from tokenstore.codecs.zstd import Zstd
from tokenstore.errors import CodecError, WeightsError
from tokenstore.manifest import publish
from tokenstore.preprocess import Preprocess
from tokenstore.reader import Store
from tokenstore.report import ReportOptions, gallery, report_on
from tokenstore.report.charts import WIDTH, histogram, log_log, to_scale
from tokenstore.report.codes import distinct_codes, popularity
from tokenstore.report.page import render
from tokenstore.report.sampling import chosen_split, draw
from tokenstore.single_images import psnr
from tokenstore.sources.base import decode_image
from tokenstore.vocabulary import Vocabulary


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def page_of(store: object, folder: Path, *words: object) -> str:
    told = run("report", store, "-o", folder / "page.html", *words)
    assert told.exit_code == 0, told.output
    return (folder / "page.html").read_text()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return write_toy_store(tmp_path / "toys")


@pytest.fixture
def built(tmp_path: Path, toy_tokenizer: str) -> tuple[Path, Path]:
    """A folder of photos and the store that was built from it; `bad.jpg` is a reject."""
    corpus, place = write_corpus(tmp_path / "photos", {"train": 8, "val": 2}), tmp_path / "built"
    (corpus / "train" / "apple" / "bad.jpg").write_bytes(b"")
    assert run("build", corpus, "-o", place, "--tokenizer", toy_tokenizer).exit_code == 0
    return corpus, place


class Page(HTMLParser):
    """Tags and attributes of a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


# --- what is measured


def test_every_form_has_the_size_that_it_has_by_definition(store: Store) -> None:
    report = report_on(store.url, ReportOptions())
    assert report.forms is not None
    size = {form.name: form.size for form in report.forms.forms}
    grids = store["train"].read(np.arange(0, 48, 4)).ranks
    assert (report.forms.fitted, report.forms.measured) == (36, 12)
    assert size["pixels"] == 64 * 64 * 3
    assert size["image files"] is None, "this store does not know its source files"
    assert size["tokens, uint16"] == 2 * 64
    assert size["tokens, packed"] == 4 * 64 / 8
    assert size["escape code"] == 64, "ranks below 255 are one byte each"
    assert size["codes equally likely"] == 4 * 64 / 8
    assert size["gzip"] == len(Gzip(CodecSpec(16, (8, 8))).encode(grids).data) / 12 + 2
    shares = store.vocabulary.counts / store.vocabulary.counts.sum()
    bits = -np.log2(shares[grids]).sum()
    assert size["order-0 entropy"] == pytest.approx(bits / 8 / 12)


def test_all_installed_codecs_are_measured_and_the_stored_ones_marked(tmp_path: Path) -> None:
    store = write_small_store(tmp_path / "s").store
    forms = report_on(store.url, ReportOptions()).forms
    assert forms is not None
    codecs = {form.name: form.stored for form in forms.of_kind("codec")}
    assert sorted(codecs) == registry.names("tokenstore.codecs")
    assert {name for name, stored in codecs.items() if stored} == {"zstd", "gzip"}


def test_codecs_are_measured_on_images_that_they_were_not_fitted_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[np.ndarray] = []
    fit, images = Zstd.fit.__func__, []

    def watched(cls: type, sample: np.ndarray, spec: CodecSpec, served: int | None) -> Zstd:
        fitted.append(sample)
        images.append(served)
        return fit(cls, sample, spec, served)

    monkeypatch.setattr(Zstd, "fit", classmethod(watched))
    report = report_on(store.url, ReportOptions())
    sampled = report.sampled
    held = np.arange(48) % 4 == 0
    assert np.array_equal(fitted[0], store["train"].read(np.flatnonzero(~held)).ranks)
    assert np.array_equal(sampled.measured, store["train"].read(np.flatnonzero(held)).ranks)
    assert images == [64], "tables serve all images of the store"


def test_a_codec_that_fails_or_changes_tokens_is_told_and_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = write_small_store(tmp_path / "s", Small(codecs=("zstd",))).store

    def refuses(self: Zstd, ranks: np.ndarray) -> None:
        raise CodecError("no <b>today</b>")

    monkeypatch.setattr(Zstd, "encode", refuses)
    monkeypatch.setattr(Gzip, "decode", lambda self, data, starts, ends, out: out.fill(3))
    report = report_on(store.url, ReportOptions())
    assert report.forms is not None
    problems = {form.name: form.problem for form in report.forms.of_kind("codec")}
    assert problems["zstd"] == "no <b>today</b>"
    assert "does not give back" in str(problems["gzip"])
    assert "no &lt;b&gt;today&lt;/b&gt;" in render(report, "s")


def test_a_large_split_is_measured_on_a_spread_sample_of_the_size_asked() -> None:
    class Numbers:
        """A split of a hundred million images that counts what is read."""

        classes = None

        def __init__(self, store: Store) -> None:
            self.store, self.most = store, 0

        def __len__(self) -> int:
            return 100_000_000

        def read(self, numbers: np.ndarray, out: np.ndarray) -> object:
            self.most = max(self.most, len(numbers))
            return type("Batch", (), {"labels": None})

    class Manifest:
        grid = (2, 2)

    store = type("Stub", (), {"manifest": Manifest})
    split, chunks = Numbers(store), []
    sampled = draw(split, 1000, lambda: chunks.append(1))
    assert len(np.unique(sampled.numbers)) == 1000
    assert split.most <= 256
    assert len(chunks) == 4
    assert np.all(np.diff(sampled.numbers) > 0)
    assert sampled.numbers[0] < 1e6
    assert sampled.numbers[-1] > 99e6
    assert np.array_equal(sampled.numbers, draw(split, 1000, lambda: None).numbers)


def test_popularity_tells_of_counts_whatever_their_order() -> None:
    ids = np.arange(4, dtype=np.int32)
    told = popularity(Vocabulary(ids, np.array([1, 5, 0, 2])))
    assert (told.size, told.occurring, told.tokens, told.half) == (4, 3, 8, 1)
    assert told.curve == ((1, 5 / 8), (2, 2 / 8), (3, 1 / 8))
    assert told.uniform == 2
    assert told.one_byte == 1
    many = popularity(Vocabulary(np.arange(510, dtype=np.int32), np.ones(510, np.int64)))
    assert many.one_byte == 0.5
    assert many.half == 255
    assert many.curve[-1] == (510, 1 / 510)


def test_distinct_codes_are_counted_in_each_image() -> None:
    grids = np.array([[[1, 1], [1, 1]], [[1, 2], [3, 1]]], np.uint16)
    assert distinct_codes(grids) == 2
    assert distinct_codes(grids[:0]) == 0


def test_rejects_are_all_counted_by_reason(tmp_path: Path) -> None:
    store = write_small_store(tmp_path / "s", Small(rejects=33)).store
    rejects = report_on(store.url, ReportOptions()).rejects
    assert rejects.count == 33
    assert rejects.reasons == (("no image", 33),)
    assert len(rejects.first) == 20
    assert rejects.first[0] == ("train", "r0.jpg", "no image")


# --- the page


def test_the_page_agrees_with_info(built: tuple[Path, Path], tmp_path: Path) -> None:
    facts = json.loads(run("info", built[1], "--json").stdout)
    text = Page(page_of(built[1], tmp_path)).text
    assert f"{facts['images']} images as 4\u00d74 tokens" in text
    assert facts["fingerprint"] in text
    assert f"{facts['vocabulary']['entropy_bits']:.3f} bits" in text
    for split in facts["splits"].values():
        for part in ("records", "keys", "framing", "index", "total"):
            assert f"{split['bytes_an_image'][part]:.2f}" in text
    assert f"{facts['vocabulary']['bytes']:,}" in text


def test_the_page_needs_nothing_else(built: tuple[Path, Path], tmp_path: Path) -> None:
    corpus, place = built
    text = page_of(place, tmp_path, "--images", corpus)
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    pictures = 0
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        if "src" in attributes:
            assert tag == "img"
            assert str(attributes["src"]).startswith(("data:image/png;", "data:image/jpeg;"))
            assert attributes["alt"]
            pictures += 1
        if "href" in attributes:
            assert str(attributes["href"]).removeprefix("#") in ids
    codes = text.count('alt="code of rank')
    assert 1 < codes <= 24
    assert pictures == 3 * 8 + codes, "original, reconstruction and tokens of each image"
    assert not re.search(
        r"https?:|url\(|@import|//", re.sub(r"data:image/\w+;base64,\S+", "", text)
    )


def test_names_from_a_store_are_only_ever_text(tmp_path: Path, toy_tokenizer: str) -> None:
    names = ("<img src=x onerror=alert(1)>", "a&b\"'><script>alert(2)")
    corpus = write_corpus(
        tmp_path / "photos", {"train": 4}, names, name=("<svg onload=alert(3)>{}.jpg".format)
    )
    (corpus / "train" / names[0] / "<script>bad.jpg").write_bytes(b"no image")
    place = tmp_path / "<i>{{ 7 * 7 }}"
    assert run("build", corpus, "-o", place, "--tokenizer", toy_tokenizer).exit_code == 0
    text = page_of(place, tmp_path, "--images", corpus)
    page = Page(text)
    assert not {"script", "i"} & {tag for tag, _ in page.tags}
    assert not [name for _, found in page.tags for name in found if name.startswith("on")]
    for name in (*names, "<svg onload=alert(3)>0", "<script>bad.jpg", "<i>{{ 7 * 7 }}"):
        assert name in page.text
        assert name not in text


def test_the_template_escapes_everything() -> None:
    template = Path(str(gallery.__file__)).with_name("page.html.jinja").read_text()
    assert "safe" not in re.findall(r"\|\s*(\w+)", template)
    assert "autoescape" not in template


def test_the_same_store_and_options_give_the_same_page(
    built: tuple[Path, Path], tmp_path: Path
) -> None:
    corpus, place = built
    first = page_of(place, tmp_path, "--images", corpus)
    shutil.copytree(place, tmp_path / "elsewhere" / place.name)
    shutil.move(corpus, tmp_path / "moved")
    moved = page_of(tmp_path / "elsewhere" / place.name, tmp_path, "--images", tmp_path / "moved")
    assert first == moved
    assert str(tmp_path) not in first


def test_the_python_on_the_page_runs(
    built: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = page_of(built[1], tmp_path)
    code = html.unescape(re.findall(r"<pre[^>]*><code>(.*?)</code></pre>", text, re.DOTALL)[0])
    monkeypatch.chdir(built[1].parent)
    names: dict[str, object] = {}
    exec(code, names)
    assert len(names["batch"].ranks) == 3
    assert "store.decode" in code


def test_the_page_lists_rejects_with_their_reasons(
    built: tuple[Path, Path], tmp_path: Path
) -> None:
    text = Page(page_of(built[1], tmp_path)).text
    assert "1 image could not be used" in text
    assert "train/apple/bad.jpg" in text
    assert "the file is empty" in text


# --- pictures


def test_originals_stand_beside_reconstructions_with_their_psnr(
    built: tuple[Path, Path], tmp_path: Path
) -> None:
    corpus, place = built
    report = report_on(str(place), ReportOptions(images=str(corpus)))
    rule = Preprocess.from_json(report.store.manifest.preprocess)
    shown = [one for _, some in report.pictures.groups for one in some]
    assert len(shown) == 8
    for one in shown:
        file = corpus / "train" / f"{one.name}.jpg"
        original = rule.apply(decode_image(file.read_bytes()))
        decoded = report.store.decode(report.store["train"][one.number].ranks[None])[0]
        assert one.original == gallery.data_uri(original)
        assert one.decoded == gallery.data_uri(decoded)
        assert one.psnr == pytest.approx(psnr(original, decoded))
    assert report.pictures.same_listing is True
    told = run("report", place, "-o", tmp_path / "x.html", "--images", corpus, "--json")
    assert json.loads(told.stdout)["psnr"] == [one.psnr for one in shown]


def test_pictures_are_grouped_by_class(built: tuple[Path, Path]) -> None:
    report = report_on(str(built[1]), ReportOptions())
    assert [name for name, _ in report.pictures.groups] == ["apple", "pear"]
    for name, some in report.pictures.groups:
        assert all(one.name.startswith(f"{name}/") for one in some)
        assert all(one.original is None and one.psnr is None and one.decoded for one in some)


def test_of_many_classes_and_images_a_few_are_shown(tmp_path: Path) -> None:
    toy = ToyStore(counts={"train": 400}, classes=40)
    sampled = draw(write_toy_store(tmp_path / "s", toy)["train"], 400, lambda: None)
    chosen = gallery.choose(sampled)
    assert [name for name, _ in chosen] == [f"class{i}" for i in (0, 7, 15, 23, 31, 39)]
    assert [len(rows) for _, rows in chosen] == [3] * 6
    for name, rows in chosen:
        assert {f"class{label}" for label in sampled.labels[rows]} == {name}


def test_of_many_classes_the_largest_are_listed_and_the_others_counted(tmp_path: Path) -> None:
    store = write_toy_store(tmp_path / "s", ToyStore(counts={"train": 300}, classes=50))
    text = Page(page_of(store.url, tmp_path)).text
    assert "and 10 smaller classes." in text
    counts = np.bincount(store["train"].labels, minlength=50)
    assert f"50, of {counts.min()} to {counts.max()} images" in text


def test_an_original_that_is_gone_or_broken_is_said_so(
    built: tuple[Path, Path], tmp_path: Path
) -> None:
    corpus, place = built
    (corpus / "train" / "apple" / "photo_000.jpg").unlink()
    (corpus / "train" / "pear" / "photo_001.jpg").write_bytes(b"broken")
    report = report_on(str(place), ReportOptions(images=str(corpus)))
    problems = {one.name: one.problem for _, some in report.pictures.groups for one in some}
    assert problems.pop("apple/photo_000") == "its original is not among the images"
    assert "cannot be used: no JPEG" in str(problems.pop("pear/photo_001"))
    assert set(problems.values()) == {None}
    assert report.pictures.same_listing is False
    assert len(report.pictures.psnr) == 6


def test_images_of_one_split_alone_are_found_too(built: tuple[Path, Path]) -> None:
    corpus, place = built
    options = ReportOptions(split="val", images=str(corpus / "val"))
    assert len(report_on(str(place), options).pictures.psnr) == 2


def test_without_its_tokenizer_the_page_says_so_and_shows_the_tokens(
    store: Store, tmp_path: Path
) -> None:
    told = run("report", store.url, "-o", tmp_path / "x.html")
    assert told.exit_code == 0
    assert "without reconstructions: unknown tokenizer 'toy'" in told.stderr
    page = Page((tmp_path / "x.html").read_text())
    assert "There are no reconstructions here." in page.text
    assert "Its tokenizer 'toy' is not installed here." in page.text
    alts = [str(found["alt"]) for tag, found in page.tags if tag == "img"]
    assert len(alts) > 0
    assert all(alt.startswith("tokens of class") for alt in alts)
    assert "store.decode" not in page.text


def test_missing_weights_are_told_without_a_path_of_this_machine(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_weights(*args: object, **options: object) -> None:
        raise WeightsError("put them at '/root/.cache/weights.ckpt'")

    monkeypatch.setattr("tokenstore.tokenizers.load_tokenizer", no_weights)
    told = run("report", store.url, "-o", tmp_path / "x.html")
    assert (told.exit_code, "/root/.cache" in told.stderr) == (0, True)
    text = (tmp_path / "x.html").read_text()
    assert "/root/.cache" not in text
    assert "The weights of its tokenizer" in text


def test_weights_that_were_given_must_be_the_right_ones(store: Store, tmp_path: Path) -> None:
    told = run("report", store.url, "-o", tmp_path / "x.html", "--weights", "nowhere.ckpt")
    assert told.exit_code == 2
    assert not (tmp_path / "x.html").exists()


def test_the_commonest_codes_are_shown_as_they_are_decoded(built: tuple[Path, Path]) -> None:
    report = report_on(str(built[1]), ReportOptions())
    store, swatches = report.store, report.pictures.swatches
    counts = store.vocabulary.counts
    assert [swatch.rank for swatch in swatches] == list(range(min(24, len(counts))))
    for swatch in swatches:
        assert swatch.share == counts[swatch.rank] / counts.sum()
        picture = store.decode(np.full((1, 4, 4), swatch.rank))[0]
        assert swatch.picture == gallery.data_uri(picture)


def test_tokens_of_an_unknown_tokenizer_are_said_to_be_so(store: Store, tmp_path: Path) -> None:
    manifest = store.manifest.model_copy(update={"preprocess": {}, "hash": None})
    for name in ("manifest.json", "manifests/000000.json"):
        (Path(store.url) / name).unlink()
    publish(store.storage, manifest)
    text = Page(page_of(store.url, tmp_path)).text
    assert "The store does not say which tokenizer made its tokens." in text
    assert "the store does not say its resolution" in text
    told = run("report", store.url, "-o", tmp_path / "y.html", "--images", tmp_path)
    assert told.exit_code == 2
    assert "Leave out --images" in told.stderr


def test_token_colours_are_near_for_near_codes_and_grey_without_a_codebook() -> None:
    line = np.linspace(0, 1, 50, dtype=np.float32)[:, None] * np.array([[1, 2, 0, 1]], np.float32)
    colours = gallery.code_colours(line, 50).astype(int)
    assert np.abs(np.diff(colours[:, 0])).max() < 12
    assert abs(colours[0, 0] - colours[-1, 0]) == 255
    greys = gallery.code_colours(None, 300)
    assert greys.shape == (300, 3)
    assert (greys[0] == 0).all()
    assert (greys[-1] == 255).all()
    assert gallery.code_colours(None, 1).tolist() == [[0, 0, 0]]
    grid = np.array([[[0, 1]], [[2, 3]]], np.uint16)
    assert gallery.token_picture(grid, greys).shape == (1, 4, 3)


# --- stores of every kind


@pytest.mark.parametrize(
    "toy",
    [
        ToyStore(counts={"train": 1}),
        ToyStore(counts={"train": 2}, classes=0),
        ToyStore(counts={"train": 0, "val": 3}),
        ToyStore(counts={"train": 0}),
        ToyStore(with_codebook=False),
        ToyStore(codes=1),
    ],
    ids=["one image", "no labels", "empty train", "no images", "no codebook", "one code"],
)
def test_any_store_has_a_page(toy: ToyStore, tmp_path: Path, toy_tokenizer: str) -> None:
    store = write_toy_store(tmp_path / "s", toy)
    text = Page(page_of(store.url, tmp_path)).text
    assert store.fingerprint in text
    images = max(toy.counts.values())
    assert ("holds no images" in text) == (images == 0)
    assert ("none in this store" in text) == (not toy.with_codebook)


@pytest.mark.parametrize(
    "small",
    [Small(), Small(classes=None, keys=False, extras=False), Small(grid=(3, 4, 2))],
    ids=["every column", "ranks alone", "planes"],
)
def test_a_store_with_other_columns_and_grids_has_a_page(small: Small, tmp_path: Path) -> None:
    store = write_small_store(tmp_path / "s", small).store
    text = Page(page_of(store.url, tmp_path, "--split", "val", "--sample", 3)).text
    assert "1 image of val is measured" in text
    assert ("sample 2" in text) == (not small.keys)
    assert ("Metadata, views" in text) == ("Masks" in text) == small.extras


def test_the_split_is_train_or_the_first_that_holds_images(tmp_path: Path) -> None:
    both = write_toy_store(tmp_path / "a", ToyStore(counts={"train": 3, "val": 2}))
    one = write_toy_store(tmp_path / "b", ToyStore(counts={"train": 0, "val": 2}))
    assert chosen_split(both, None).name == "train"
    assert chosen_split(both, "val").name == "val"
    assert chosen_split(one, None).name == "val"


# --- drawings


def test_a_logarithmic_curve_falls_from_the_left_to_the_right_edge() -> None:
    chart = log_log([(1, 0.5), (10, 0.05), (1000, 0.0005)])
    assert chart is not None
    points = [tuple(map(float, point.split(","))) for point in chart.lines[0].points.split()]
    assert (points[0][0], points[-1][0]) == (chart.left, chart.right)
    third = (chart.right - chart.left) / 3
    assert points[1][0] == pytest.approx(chart.left + third, abs=0.1)
    assert [tick.label for tick in chart.x_ticks] == ["1", "10", "100", "1,000"]
    assert [tick.label for tick in chart.y_ticks] == ["0.01%", "0.1%", "1%", "10%", "100%"]
    assert log_log([]) is None


def test_a_histogram_counts_every_value_once() -> None:
    values = np.random.default_rng(0).integers(190, 1300, 500)
    chart = histogram(values)
    assert chart is not None
    counted = [int(bar.label.split(": ")[1].split()[0]) for bar in chart.bars]
    assert sum(counted) == 500
    assert max(bar.height for bar in chart.bars) == chart.bottom - chart.top
    assert histogram(values[:0]) is None
    assert histogram(np.array([7, 7])) is None
    assert len(histogram(np.array([7, 9])).bars) == 3


def test_squares_are_to_scale() -> None:
    squares = to_scale([("a", 40_000.0), ("b", 10_000.0), ("c", 100.0)])
    areas = [square.side**2 / square.size for square in squares]
    assert areas == pytest.approx([areas[0]] * 3, rel=0.05)
    assert squares[-1].x + squares[-1].side < WIDTH
    assert all(math.isclose(square.y + square.side, WIDTH) for square in squares)


# --- refusals


def test_what_cannot_be_written_is_refused_before_any_work(store: Store, tmp_path: Path) -> None:
    told = run("report", store.url, "-o", tmp_path / "no" / "such" / "x.html")
    assert told.exit_code == 2
    assert "does not exist. Make it" in told.stderr
    inside = Path(store.url) / "x.html"
    told = run("report", store.url, "-o", inside)
    assert told.exit_code == 2
    assert "Write the page beside the store" in told.stderr
    assert not inside.exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--split", "vla"], "unknown split 'vla'. Did you mean val?"),
        (["--sample", "0"], "0 is not in the range x>=1"),
        (["--images", "/nowhere"], "'/nowhere' does not exist"),
    ],
)
def test_wrong_words_are_refused(store: Store, tmp_path: Path, words: list[str], text: str) -> None:
    told = run("report", store.url, "-o", tmp_path / "x.html", *words)
    assert told.exit_code == 2
    assert text in told.stderr
    assert not (tmp_path / "x.html").exists()


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    told = run("report", tmp_path / "nothing", "-o", tmp_path / "x.html")
    assert told.exit_code == 2
    assert "is no token store" in told.stderr


def test_images_of_another_corpus_are_refused(store: Store, tmp_path: Path) -> None:
    other = write_corpus(tmp_path / "other", {"": 4})
    told = run("report", store.url, "-o", tmp_path / "x.html", "--images", other)
    assert told.exit_code == 2
    assert "none of 12 keys of split 'train'" in told.stderr
    assert "such as 'apple/photo_000'" in told.stderr


def test_a_store_without_keys_cannot_be_shown_beside_its_images(tmp_path: Path) -> None:
    store = write_small_store(tmp_path / "s", Small(keys=False)).store
    corpus = write_corpus(tmp_path / "photos", {"": 4})
    told = run("report", store.url, "-o", tmp_path / "x.html", "--images", corpus)
    assert told.exit_code == 2
    assert "has no keys" in told.stderr


def test_a_damaged_record_is_an_error_and_leaves_no_page(store: Store, tmp_path: Path) -> None:
    shard = Path(store.url) / "train-000000.tar"
    content = bytearray(shard.read_bytes())
    content[600] ^= 4
    shard.write_bytes(content)
    told = run("report", store.url, "-o", tmp_path / "x.html")
    assert told.exit_code == 2
    assert "train-000000.tar" in told.stderr
    assert not (tmp_path / "x.html").exists()
