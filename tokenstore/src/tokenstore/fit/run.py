"""A whole fit: photos in, a weights file out, with progress, checkpoints and sample pictures.

Beside the output FILE lie, while it works, FILE.state (to go on from) and FILE.png (held-out
photos, original above reconstruction). FILE itself appears at the end.
"""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from tokenstore.contact_sheet import contact_sheet
from tokenstore.errors import UsageError
from tokenstore.fit.config import FitConfig
from tokenstore.fit.photos import (
    PhotoList,
    Picture,
    decode_photos,
    list_photos,
    measured_pictures,
    random_crops,
)
from tokenstore.fit.state import load_state, save_state
from tokenstore.fit.train import Quality, Trainer
from tokenstore.progress import WorkProgress
from tokenstore.tokenizers.network import checked_device
from tokenstore.tokenizers.pocket import load_weights, save_weights

STEPS_BETWEEN_CHECKPOINTS = 250
PICTURED = 6  # held-out photos on the sheet


@dataclass(frozen=True)
class FitReport:
    """What a fit came to; `psnr` in dB over the held-out photos, hard-quantised, at 256x256."""

    steps: int
    photos: int
    rejects: int
    psnr: float
    codes_used: int
    codes: int


def fit_tokenizer(
    folders: Sequence[str], file: Path, config: FitConfig, threads: int, device: str
) -> tuple[FitReport, bool]:
    """Train a pocket tokenizer on the photos of folders, or go on where an earlier call stopped.

    Returns:
        The report, and whether this call did any training: False where `file` was there already.

    Raises:
        UsageError: `file` is there already and is no result of this very fit, or lies among the
            photos.
        SourceError: too few photos.
        TokenizerError: no such device.
        TrainingError: the state beside `file` cannot be used, or the loss is not finite.
    """
    place = checked_device(device, config.precision)
    _check_output(file, folders)
    chosen = list_photos(folders, config)
    identity = _identity(config, chosen)
    if file.exists():
        return _finished(file, identity), False
    torch.set_num_threads(threads)
    photos, rejects = _decoded(chosen, threads)
    held_out = measured_pictures(photos[: config.held_out])
    training = photos[config.held_out :]
    trainer = Trainer(config, lambda step: random_crops(training, config, step), place)
    quality = _train(trainer, held_out, file, identity)
    report = FitReport(
        steps=config.steps,
        photos=len(training),
        rejects=rejects,
        psnr=round(quality.psnr, 3),
        codes_used=quality.codes_used,
        codes=config.network.codes,
    )
    notes = {"identity": identity, "config": asdict(config), "report": asdict(report)}
    save_weights(file, trainer.averaged, notes)
    _beside(file, "state").unlink(missing_ok=True)
    return report, True


def _check_output(file: Path, folders: Sequence[str]) -> None:
    """Refuse a folder that is not there, and one whose photos the sample sheet would join."""
    if not file.parent.is_dir():
        raise UsageError(f"'{file}' cannot be written: there is no folder '{file.parent}'")
    for folder in folders:
        if file.resolve().is_relative_to(Path(folder).resolve()):
            raise UsageError(
                f"'{file}' lies among the photos of '{folder}', and its sample sheet would become "
                "one of them. Choose an output elsewhere."
            )


def _identity(config: FitConfig, chosen: PhotoList) -> str:
    """Hash of all that fixes the weights, the processor apart."""
    settings = json.dumps(asdict(config), sort_keys=True)
    return hashlib.sha256(f"{settings}\n{chosen.identity}".encode()).hexdigest()


def _finished(file: Path, identity: str) -> FitReport:
    """The report of the fit that made `file`, if it was this one."""
    _, notes = load_weights(file)
    if notes.get("identity") != identity:
        raise UsageError(
            f"'{file}' exists and was made with other settings or photos. Choose another output, "
            "or remove it."
        )
    return FitReport(**notes["report"])


def _decoded(chosen: PhotoList, threads: int) -> tuple[list[Picture], int]:
    with WorkProgress("decoding", len(chosen.items), "photos") as progress:
        if chosen.found > len(chosen.items):
            progress.say(f"using {len(chosen.items):,} of {chosen.found:,} photos, drawn by seed")
        photos, rejects = decode_photos(chosen, threads, progress.advance)
        for reject in rejects:
            progress.say(f"left out: {reject}")
    return photos, len(rejects)


def _train(trainer: Trainer, held_out: Picture, file: Path, identity: str) -> Quality:
    """Train to the end, from the state beside `file` if there is one."""
    state, steps = _beside(file, "state"), trainer.config.steps
    if state.exists():
        load_state(state, trainer, identity)
    with (
        WorkProgress("training", steps, "steps") as progress,
        ThreadPoolExecutor(1) as ahead,
    ):
        progress.skip(trainer.step)
        crops = ahead.submit(trainer.batches, trainer.step)
        while trainer.step < steps:
            batch = crops.result()
            crops = ahead.submit(trainer.batches, trainer.step + 1)
            loss = trainer.train_step(batch)
            progress.advance()
            if trainer.step % STEPS_BETWEEN_CHECKPOINTS == 0:
                save_state(state, trainer, identity)
                quality = trainer.measure(held_out)
                _draw_samples(_beside(file, "png"), held_out, quality)
                progress.say(f"{progress.line()}; loss {loss:.5f}, held-out {_told(quality)}")
    quality = trainer.measure(held_out)
    _draw_samples(_beside(file, "png"), held_out, quality)
    return quality


def _told(quality: Quality) -> str:
    return f"PSNR {quality.psnr:.2f} dB with {quality.codes_used:,} codes in use"


def _draw_samples(file: Path, originals: Picture, quality: Quality) -> None:
    rows = [list(originals[:PICTURED]), list(quality.pictures[:PICTURED])]
    captions = [["original"] * len(rows[0]), ["reconstruction"] * len(rows[1])]
    partial = _beside(file, "partial.png")
    contact_sheet(rows, captions).save(partial)
    partial.replace(file)


def _beside(file: Path, suffix: str) -> Path:
    """`mine.safetensors -> mine.safetensors.state`."""
    return file.with_name(f"{file.name}.{suffix}")
