"""A whole build, from a folder of images to a published store, in the order in which it happens."""

import sys
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

from tokenstore import registry
from tokenstore.build.decode import decoding_pool
from tokenstore.build.local import RejectWatch, available_cores, tokenize_parts
from tokenstore.build.output import claim_output
from tokenstore.build.pack import Finished, pack
from tokenstore.build.plan import BuildOptions, Plan, make_plan
from tokenstore.build.tokenize import BYTES_AN_ID, Workbench
from tokenstore.choice import DEFAULT_TOKENIZER
from tokenstore.manifest import Manifest, load_manifest
from tokenstore.preprocess import Preprocess
from tokenstore.progress import WorkProgress
from tokenstore.reader import Store, open_store
from tokenstore.sources import open_source
from tokenstore.space import room_for
from tokenstore.storage import Storage
from tokenstore.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tokenstore.sources.base import Source
    from tokenstore.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class Running:
    """How a build runs; nothing here changes what comes out, only whether it does."""

    workers: int = field(default_factory=available_cores)
    strict: bool = False
    max_rejects: int | None = None
    stream: TextIO = field(default_factory=lambda: sys.stderr)


@dataclass(frozen=True)
class BuildReport:
    """What a build came to: `tokenized` images in this run; not `is_new` if it was whole before."""

    place: str
    manifest: Manifest
    is_new: bool
    tokenized: int


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
        SourceError: the corpus cannot be used.
        UnknownName: no such tokenizer, codec or kind of source.
        TokenizerError: the tokenizer cannot be loaded as asked.
        Mismatch: the store that gives the vocabulary was made by another tokenizer.
        BuildError: the place is taken, or images were rejected that must not be.
    """
    registry.find("tokenstore.codecs", options.codec)
    known = None if options.vocabulary is None else open_store(options.vocabulary)
    options = completed(options, known)
    registry.find("tokenstore.tokenizers", str(options.tokenizer))
    source = open_source(images, options.source, options.of_source)
    listing = source.listing()
    tokenizer = options.load()
    vocabulary = None if known is None else taken_over(known, tokenizer)
    plan = make_plan(source.kind, listing, tokenizer, options, vocabulary)
    needed = BYTES_AN_ID * prod(tokenizer.grid) * plan.images()
    output = claim_output(place, plan, needed)
    if output.is_done:
        output.clear_staging()
        whole = load_manifest(output.target)
        return BuildReport(output.target.url, whole, is_new=False, tokenized=0)
    with room_for(output.target.url, needed):
        finished, tokenized = tokenize_plan(Job(plan, source, tokenizer), output.staging, running)
        count = sum(report.count for _, report in finished)
        with WorkProgress("packing", count, stream=running.stream) as bar:
            places = (output.staging, output.target)
            manifest = pack(plan, finished, places, tokenizer.codebook, bar.advance)
    output.clear_staging()
    return BuildReport(output.target.url, manifest, is_new=True, tokenized=tokenized)


class Job(NamedTuple):
    """A plan with what turns its images into ids."""

    plan: Plan
    source: "Source"
    tokenizer: "Tokenizer"


def tokenize_plan(job: Job, staging: Storage, running: Running) -> tuple[list[Finished], int]:
    """Finish all parts of a plan; also how many images that took in this run.

    Raises:
        BuildError: images were rejected that must not be.
    """
    plan = job.plan
    with (
        decoding_pool(running.workers, plan.facts["device"]) as pool,
        WorkProgress("tokenizing", plan.images(), stream=running.stream) as progress,
    ):
        for note in plan.listing.notes:
            progress.say(note)
        watch = RejectWatch(progress, running.strict, running.max_rejects)
        watch.see(plan.listing.rejects)
        bench = Workbench(plan, job.source, job.tokenizer, staging, pool)
        return tokenize_parts(bench, watch, progress), progress.fresh


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
