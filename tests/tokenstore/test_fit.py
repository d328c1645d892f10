"""`tokenstore fit`: it learns, resumes to the same bytes, and refuses what does not belong."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from tests.toy_images import picture
from tokenstore.cli.fit import command
from tokenstore.errors import SourceError, TokenizerError, TrainingError, UsageError, WeightsError
from tokenstore.fit import run
from tokenstore.fit.config import FitConfig
from tokenstore.fit.photos import decode_photos, list_photos, random_crops
from tokenstore.fit.quantiser import Quantiser
from tokenstore.fit.train import Trainer, learning_rate
from tokenstore.single_images import psnr
from tokenstore.tokenizers import load_tokenizer
from tokenstore.tokenizers.pocket import PocketConfig
from tokenstore.tokenizers.search import nearest_codes

TINY = FitConfig(
    network=PocketConfig(codes=16, dimension=4, width=16, fine_width=16, blocks=1),
    steps=24,
    batch_size=4,
    crop=32,
    learning_rate=3e-3,
    warm_up=4,
    held_out=2,
    precision="fp32",
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(8):
        picture(seed, (96, 72)).save(folder / f"{seed}.png")
    return str(folder)


def fit(photos: str, file: Path, config: FitConfig = TINY) -> run.FitReport:
    return run.fit_tokenizer([photos], file, config, 1, "cpu")[0]


def stop_at(step: int) -> Callable[..., np.ndarray]:
    """`random_crops` that fails when the batch of one step is asked for."""

    def crops(pictures: list[np.ndarray], config: FitConfig, asked: int) -> np.ndarray:
        if asked == step:
            raise KeyboardInterrupt
        return random_crops(pictures, config, asked)

    return crops


def test_a_short_fit_gives_weights_that_the_tokenizer_takes(photos: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    report = fit(photos, file)
    tokenizer = load_tokenizer("pocket", str(file))
    assert tokenizer.codebook.shape == (16, 4)
    originals = run.measured_pictures([np.asarray(picture(seed, (96, 72))) for seed in range(8)])
    decoded = tokenizer.to_uint8(tokenizer.decode(tokenizer.encode(originals)))
    measured = np.mean([psnr(*pair) for pair in zip(originals, decoded, strict=True)])
    assert abs(measured - report.psnr) < 1.5, "the report measures two of these eight"
    assert (report.photos, report.rejects, report.codes) == (6, 0, 16)
    assert 1 < report.codes_used <= 16


def test_training_longer_is_better(photos: str, tmp_path: Path) -> None:
    short = FitConfig(**{**TINY.__dict__, "steps": 4})
    longer = FitConfig(**{**TINY.__dict__, "steps": 80})
    before = fit(photos, tmp_path / "short.safetensors", short)
    after = fit(photos, tmp_path / "long.safetensors", longer)
    assert after.psnr > before.psnr + 2


def test_an_interrupted_fit_resumes_to_the_same_bytes(
    photos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parted = tmp_path / "whole.safetensors", tmp_path / "parted.safetensors"
    fit(photos, whole)
    monkeypatch.setattr(run, "STEPS_BETWEEN_CHECKPOINTS", 5)
    for step in (2, 19, 22):  # in the plain steps before any checkpoint, then with a codebook
        monkeypatch.setattr(run, "random_crops", stop_at(step))
        with pytest.raises(KeyboardInterrupt):
            fit(photos, parted)
        assert not parted.exists()
    monkeypatch.setattr(run, "random_crops", random_crops)
    fit(photos, parted)
    assert parted.read_bytes() == whole.read_bytes()


def test_the_end_leaves_weights_and_samples_but_no_state(photos: str, tmp_path: Path) -> None:
    fit(photos, tmp_path / "mine.safetensors")
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["mine.safetensors", "mine.safetensors.png"]
    with Image.open(tmp_path / "mine.safetensors.png") as sheet:
        assert sheet.height > 2 * 256


def test_a_finished_fit_is_not_done_again(photos: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    report = fit(photos, file)
    made = file.stat().st_mtime_ns
    assert run.fit_tokenizer([photos], file, TINY, 1, "cpu") == (report, False)
    assert file.stat().st_mtime_ns == made


def test_another_fit_never_replaces_existing_weights(photos: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    fit(photos, file)
    content = file.read_bytes()
    with pytest.raises(UsageError, match="made with other settings or photos"):
        fit(photos, file, FitConfig(**{**TINY.__dict__, "seed": 1}))
    assert file.read_bytes() == content


def test_a_file_that_is_no_weights_is_never_replaced(photos: str, tmp_path: Path) -> None:
    file = tmp_path / "letter.txt"
    file.write_text("dear reader")
    with pytest.raises(WeightsError, match="no whole safetensors file"):
        fit(photos, file)
    assert file.read_text() == "dear reader"


@pytest.fixture
def interrupted(photos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The output of a fit that was stopped after its first checkpoint."""
    file = tmp_path / "mine.safetensors"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run, "STEPS_BETWEEN_CHECKPOINTS", 5)
        patch.setattr(run, "random_crops", stop_at(20))
        fit(photos, file)
    return file


def test_a_state_of_other_settings_is_refused(photos: str, interrupted: Path) -> None:
    with pytest.raises(TrainingError, match="other settings or photos"):
        fit(photos, interrupted, FitConfig(**{**TINY.__dict__, "seed": 1}))


def test_a_truncated_state_is_refused(photos: str, interrupted: Path) -> None:
    state = interrupted.with_name(f"{interrupted.name}.state")
    state.write_bytes(state.read_bytes()[:-10])
    with pytest.raises(WeightsError, match=r"\.state' is no whole safetensors"):
        fit(photos, interrupted)


def test_a_loss_that_is_not_finite_stops_the_fit(
    photos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "_loss", lambda self, images: torch.tensor(float("nan")))
    with pytest.raises(TrainingError, match=r"loss of step 0 is nan.*lower --lr"):
        fit(photos, tmp_path / "mine.safetensors")
    assert not (tmp_path / "mine.safetensors").exists()


def test_too_few_photos_are_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    picture(0).save(tmp_path / "photos" / "only.png")
    with pytest.raises(SourceError, match=r"^1 photos in .* are too few"):
        fit(str(tmp_path / "photos"), tmp_path / "mine.safetensors")


def test_an_output_among_the_photos_is_refused(photos: str) -> None:
    with pytest.raises(UsageError, match="lies among the photos of"):
        fit(photos, Path(photos) / "mine.safetensors")


def test_an_output_in_a_folder_that_is_not_there_is_refused(photos: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        fit(photos, tmp_path / "absent" / "mine.safetensors")


def test_a_device_that_is_not_there_is_refused(photos: str, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="unknown device 'gpu'"):
        run.fit_tokenizer([photos], tmp_path / "mine.safetensors", TINY, 1, "gpu")


def test_damaged_photos_are_left_out_and_named(photos: str, tmp_path: Path) -> None:
    for seed in range(8):
        picture(seed).save(tmp_path / f"{seed}.png")
    (tmp_path / "3.png").write_bytes(b"no image")
    counted: list[int] = []
    chosen = list_photos([str(tmp_path), photos], TINY)
    pictures, rejects = decode_photos(chosen, 2, lambda: counted.append(1))
    assert (len(pictures), len(counted)) == (15, 16)
    assert rejects == ["3.png: no JPEG, PNG, WebP or BMP image"]


def test_only_the_train_part_of_a_corpus_is_used(tmp_path: Path) -> None:
    for split, count in {"train": 5, "val": 4}.items():
        (tmp_path / split).mkdir()
        for seed in range(count):
            picture(seed).save(tmp_path / split / f"{seed}.png")
    assert {item.path[:5] for _, item in list_photos([str(tmp_path)], TINY).items} == {"train"}


def test_no_more_photos_than_asked_are_drawn_by_the_seed(photos: str) -> None:
    few = FitConfig(**{**TINY.__dict__, "photos": 3})
    other = FitConfig(**{**few.__dict__, "seed": 1})
    drawn = [item.path for _, item in list_photos([photos], few).items]
    assert len(drawn) == 3
    assert drawn == [item.path for _, item in list_photos([photos], few).items]
    assert drawn != [item.path for _, item in list_photos([photos], other).items]


def test_crops_are_a_pure_function_of_seed_and_step() -> None:
    pictures = [np.asarray(picture(seed, (300, 200))) for seed in range(3)]
    first = random_crops(pictures, TINY, 5)
    assert (first.shape, first.dtype) == ((4, 32, 32, 3), np.uint8)
    assert np.array_equal(random_crops(pictures, TINY, 5), first)
    assert not np.array_equal(random_crops(pictures, TINY, 6), first)


def test_crops_of_a_photo_smaller_than_the_crop_are_enlarged() -> None:
    assert random_crops([np.full((5, 3, 3), 7, np.uint8)], TINY, 0).mean() == 7


def test_k_means_finds_the_centres_of_clusters() -> None:
    rng = np.random.default_rng(0)
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    latents = (centres[:, None] + 0.1 * torch.randn(4, 200, 2)).flatten(0, 1)
    codebook = torch.zeros(16, 2)
    Quantiser(codebook, decay=0.9).start(latents, uses=1.0, rng=rng)
    assert (centres[:, None] - codebook[None]).norm(dim=2).min(1).values.max() < 0.5


def test_codes_follow_the_latents_that_choose_them() -> None:
    codebook = torch.tensor([[0.0], [4.0]])
    quantiser = Quantiser(codebook, decay=0.5)
    quantiser.counts.fill_(1)
    quantiser.sums.copy_(codebook)
    latents = torch.tensor([[1.0], [1.0], [5.0]], requires_grad=True)
    codes, distance = quantiser(latents)
    assert codes.tolist() == [[0.0], [0.0], [4.0]]
    assert distance.item() == 1.0
    # Code 0: half of one use at 0, and half of two at 1; code 1: half of 4, and half of 5.
    assert torch.allclose(codebook, torch.tensor([[1 / 1.5], [4.5]]))
    codes.sum().backward()
    assert latents.grad is not None
    assert latents.grad.tolist() == [[1.0], [1.0], [1.0]], "straight through"


def test_a_code_out_of_use_is_moved_onto_a_latent_and_the_others_stay() -> None:
    codebook = torch.tensor([[0.0], [100.0]])
    quantiser = Quantiser(codebook, decay=0.9)
    quantiser.counts.copy_(torch.tensor([20.0, 0.1]))
    latents = torch.linspace(-1, 1, 40)[:, None]
    quantiser.restart(latents, np.random.default_rng(0))
    assert codebook[0].item() == 0.0
    assert codebook[1] in latents
    assert len(nearest_codes(latents, codebook).unique()) == 2


def test_the_learning_rate_rises_falls_and_ends_at_zero() -> None:
    rates = [learning_rate(step, TINY) for step in range(TINY.steps + 1)]
    assert rates[0] < rates[1] < rates[TINY.warm_up] > rates[12] > rates[20]
    assert rates[-1] == 0


@pytest.mark.parametrize("wrong", [{"crop": 20}, {"crop": 0}, {"steps": 0}, {"held_out": 0}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        FitConfig(**wrong)  # type: ignore[arg-type]


def invoke(*words: str) -> Result:
    return CliRunner().invoke(command, list(words), catch_exceptions=False)


def test_the_command_tells_what_it_made_as_json_and_as_text(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for seed in range(48):
        picture(seed, (40, 40)).save(tmp_path / "photos" / f"{seed}.png")
    file = str(tmp_path / "mine.safetensors")
    line = [
        str(tmp_path / "photos"),
        "-o",
        file,
        "--steps",
        "1",
        "--batch-size",
        "1",
        "--crop",
        "8",
    ]
    line += ["--codes", "8", "--threads", "1"]
    facts = json.loads(invoke(*line, "--json").stdout)
    assert (facts["file"], facts["new"], facts["steps"], facts["photos"]) == (file, True, 1, 24)
    told = invoke(*line).stdout
    assert "is there already: 1 steps on 24 photos" in told
    assert f"--tokenizer pocket --weights {file}" in told
