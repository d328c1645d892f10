"""A whole build, from a folder of images to a published store, in the order in which it happens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tokenstore import registry
from tokenstore.build.engine import Job, RejectWatch, Running, found_reports
from tokenstore.build.local import tokenize_here
from tokenstore.build.output import Output, claim_output, found_plan, open_building, unless_whole
from tokenstore.build.pack import Packer, pack
from tokenstore.build.plan import BuildOptions, BuildPlan, Plan, make_plan, option_facts
from tokenstore.build.ray import tokenize_on_ray
from tokenstore.build.stored_plan import write_plan
from tokenstore.build.tokenize import BYTES_AN_ID, PartReport
from tokenstore.choice import DEFAULT_TOKENIZER
from tokenstore.errors import BuildError
from tokenstore.manifest import Manifest, load_manifest
from tokenstore.preprocess import Preprocess
from tokenstore.progress import WorkProgress
from tokenstore.reader import Store, open_store
from tokenstore.sources import open_source
from tokenstore.space import room_for
from tokenstore.storage import Storage
from tokenstore.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tokenstore.tokenizers.base import Precision, Tokenizer


@dataclass(frozen=True)
class BuildReport:
    """What a build came to.

    Attributes:
        tokenized: images of this run; those that it packed, where it only packed.
        is_new: False where the store was whole before.
    """

    place: str
    manifest: Manifest
    is_new: bool
    tokenized: int


@dataclass(frozen=True)
class StripeReport:
    """What one stripe of a build came to; the store is made by `finish_store`."""

    place: str
    parts: int
    images: int
    rejects: int
    tokenized: int


@dataclass(frozen=True)
class TokenizerMaker:
    """Loads the tokenizer of a build on any device, in any process."""

    options: BuildOptions

    def __call__(self, device: str) -> "Tokenizer":
        """The tokenizer, which searches the codes of the known vocabulary alone if there is one."""
        tokenizer = replace(self.options, device=device).load()
        if self.options.vocabulary is not None:
            taken_over(open_store(self.options.vocabulary), tokenizer)
        return tokenizer


def build_store(
    images: str, place: str | Path, options: BuildOptions, running: Running
) -> BuildReport:
    """Tokenize a corpus into a store, or continue where an earlier call was interrupted.

    Args:
        images: path of the corpus.
        place: folder of the store; beside it `PLACE.building/` holds what is unfinished.
        options: what to make.
        running: how to go about it.

    Raises:
        SourceError: the corpus cannot be used, or has changed since the build was planned.
        UnknownName: no such tokenizer, codec or kind of source.
        TokenizerError: the tokenizer cannot be loaded as asked.
        Mismatch: the store that gives the vocabulary was made by another tokenizer.
        BuildError: the place is taken, or images were rejected that must not be.
        NoRoom: the disk is too full.
    """
    output, job = prepare(images, place, options, running)
    if output.is_done:
        return _whole(output)
    tokenized = 0
    with room_for(output.target.url, _needed(job)), unless_whole(output, job.plan):
        finished, tokenized = tokenize_plan(job, output.staging, running)
        manifest = _packed(output, job.plan, finished, job.tokenizer.codebook, running)
        return BuildReport(output.target.url, manifest, is_new=True, tokenized=tokenized)
    return replace(_whole(output), tokenized=tokenized)


def plan_store(images: str, place: str | Path, options: BuildOptions) -> BuildPlan:
    """Plan a build and write the plan beside the store to be; see `build_store`."""
    return prepare(images, place, options, Running(computes=False))[1].plan


def build_stripe(
    images: str, place: str | Path, options: BuildOptions, running: Running
) -> StripeReport:
    """Tokenize the parts of one stripe, of a plan that is there or else is made now.

    Takes the arguments of `build_store` and raises what it raises.
    """
    output, job = prepare(images, place, options, running)
    url, finished, tokenized = output.target.url, list[PartReport](), 0
    if not output.is_done:
        with room_for(url, _needed(job)), unless_whole(output, job.plan):
            finished, tokenized = tokenize_plan(job, output.staging, running)
    counted = sum(report.count for report in finished)
    rejects = sum(len(report.rejects) for report in finished)
    return StripeReport(url, len(finished), counted, rejects, tokenized)


def finish_store(place: str | Path, running: Running) -> BuildReport:
    """Pack the parts of a build, all of which must be done, into its store.

    Raises:
        BuildError: there is no such build, or parts of it are missing.
        NoRoom: the disk is too full.
    """
    output, plan = open_building(place)
    if plan is None or output.is_done:
        return _whole(output)
    with room_for(output.target.url, 0), unless_whole(output, plan):
        with WorkProgress("checking parts", None, "parts", stream=running.stream):
            found = found_reports(plan, plan.slots(), output.staging)
        missing = [slot.name for slot in plan.slots() if slot.name not in found]
        if missing:
            raise BuildError(
                f"{len(missing):,} of {len(plan.slots()):,} parts are missing: "
                f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}. Run the lines "
                "that build them again, and then this one."
            )
        finished = [found[slot.name] for slot in plan.slots()]
        manifest = _packed(output, plan, finished, plan.codebook(), running)
        images = sum(report.count for report in finished)
        return BuildReport(output.target.url, manifest, is_new=True, tokenized=images)
    return _whole(output)


def prepare(
    images: str, place: str | Path, options: BuildOptions, running: Running
) -> tuple[Output, Job]:
    """The plan, claimed at its place and written there, and what turns its images into ids.

    One of several stripes takes the plan that it finds instead of listing the images anew. Raises
    what `build_store` raises.
    """
    registry.find("tokenstore.codecs", options.codec)
    known = None if options.vocabulary is None else open_store(options.vocabulary)
    options = completed(options, known)
    registry.find("tokenstore.tokenizers", str(options.tokenizer))
    source = open_source(images, options.source, options.of_source)
    tokenizer = options.load() if running.is_here else _loaded_to_plan(options)
    vocabulary = None if known is None else taken_over(known, tokenizer)
    plan: BuildPlan | None = None
    if running.stripe is not None:
        plan = found_plan(place, option_facts(tokenizer, options, vocabulary))
    if plan is None:
        plan = make_plan(source.kind, source.listing(), tokenizer, options, vocabulary)
    output = claim_output(place, plan, BYTES_AN_ID * prod(tokenizer.grid) * plan.images())
    if isinstance(plan, Plan) and not output.is_done:
        plan = write_plan(plan, tokenizer.codebook, output.staging)
    return output, Job(plan, source, tokenizer, TokenizerMaker(options))


def _loaded_to_plan(options: BuildOptions) -> "Tokenizer":
    """The tokenizer of a build that computes elsewhere, on a device that may not be here.

    On cuda it may also compute in tf32, which a CPU cannot; what it tells of itself is the same.
    """
    precision: Precision = "fp32" if options.precision == "tf32" else options.precision
    tokenizer = replace(options, device="cpu", precision=precision).load()
    if options.precision != precision:
        tokenizer.__dict__["precision"] = options.precision
    return tokenizer


def _needed(job: Job) -> int:
    return BYTES_AN_ID * prod(job.tokenizer.grid) * job.plan.images()


def tokenize_plan(job: Job, staging: Storage, running: Running) -> tuple[list[PartReport], int]:
    """Finish all parts of a plan, or of a stripe of it; also how many images that took in this run.

    Raises:
        BuildError: images were rejected that must not be.
        InputChanged: an image is not the one that was planned.
    """
    plan = job.plan
    slots = running.selected(plan.slots())
    images = sum(slot.count for slot in slots)
    with WorkProgress("tokenizing", images, stream=running.stream) as progress:
        for note in plan.outline.notes:
            progress.say(note)
        watch = RejectWatch(progress, running.strict, running.max_rejects)
        watch.see(plan.outline.rejects)
        reports = found_reports(plan, slots, staging)
        for slot in slots:
            if slot.name in reports:
                progress.skip(slot.count)
                watch.see(reports[slot.name].rejects)
        missing = [slot for slot in slots if slot.name not in reports]
        if missing:
            engine = tokenize_on_ray if running.engine == "ray" else tokenize_here
            fresh = engine(job, missing, staging, running, watch)
            reports |= {report.name: report for report in fresh}
        return [reports[slot.name] for slot in slots], progress.fresh


def _packed(
    output: Output,
    plan: BuildPlan,
    finished: Sequence[PartReport],
    codebook: NDArray[np.float32] | None,
    running: Running,
) -> Manifest:
    count = sum(report.count for report in finished)
    with WorkProgress("packing", count, stream=running.stream) as bar:
        packer = Packer(running.workers, bar.advance)
        manifest = pack(plan, finished, (output.staging, output.target), codebook, packer)
    output.clear_staging()
    return manifest


def _whole(output: Output) -> BuildReport:
    output.clear_staging()
    whole = load_manifest(output.target)
    return BuildReport(output.target.url, whole, is_new=False, tokenized=0)


def completed(options: BuildOptions, known: Store | None) -> BuildOptions:
    """The options with the tokenizer named; what a known store gives holds where nothing else is.

    `BuildOptions(), None -> tokenizer "pocket"`, and its own preprocessing
    """
    if known is None:
        return replace(options, tokenizer=options.tokenizer or DEFAULT_TOKENIZER)
    resized = Preprocess.from_json(known.manifest.preprocess)
    return replace(
        options,
        tokenizer=options.tokenizer or known.manifest.tokenizer.name,
        preprocess=options.preprocess or resized.rule,
        image_size=options.image_size or resized.size,
    )


def taken_over(known: Store, tokenizer: "Tokenizer") -> Vocabulary:
    """The vocabulary of a known store, to which the tokenizer is bound from now on.

    Raises:
        Mismatch: another tokenizer made that store.
        TokenizerError: a tokenizer that cannot search some of its codes only.
    """
    tokenizer.check_made(f"store '{known.url}'", known.manifest.tokenizer.model_dump())
    tokenizer.restrict(known.vocabulary.ids)
    return known.vocabulary
