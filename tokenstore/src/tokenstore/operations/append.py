"""New images become a new version of a store that is there; no file of it is changed.

The store's own tokenizer, preprocessing and codec make tokens of them. Ids that are new come at the
end of a new vocabulary file, so old ranks keep their meaning; new shards stand behind the old ones;
then a new manifest names all of it. Everything is made beside the store, moved in when it is
complete, and published, so a reader never sees half of it, and one that opened the store before
goes on reading the version that it opened.

    STORE.building/   plan.json, parts/ as in a build, new/ the files that will move in
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tokenstore.build.engine import Job, Running
from tokenstore.build.output import Output, claim_staging, clear_leftovers
from tokenstore.build.pack import (
    Packer,
    Packing,
    all_rejects,
    check_any,
    count_codes,
    fit_codec,
    new_split,
    pack_split,
)
from tokenstore.build.plan import BuildOptions, Order, Plan, WorkPlan, make_plan
from tokenstore.build.run import BuildReport, tokenize_plan
from tokenstore.build.tokenize import BYTES_AN_ID, PartReport
from tokenstore.build.views import Views
from tokenstore.errors import BuildError, PublishRace
from tokenstore.listed import load_rejects
from tokenstore.manifest import Manifest, SourceEntry, load_manifest, load_versions, publish
from tokenstore.operations.arrivals import Door, fitted, renamed_splits, without_known_keys
from tokenstore.preprocess import Preprocess
from tokenstore.progress import WorkProgress
from tokenstore.reader import Store, open_store
from tokenstore.sources import open_source
from tokenstore.sources.base import SourceOptions
from tokenstore.space import least_store, room_for
from tokenstore.storage import Storage, open_storage
from tokenstore.vocabulary import Vocabulary
from tokenstore.writer import Reject, write_rejects, write_tables, write_vocabulary

if TYPE_CHECKING:
    from tokenstore.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class AppendOptions:
    """What a user decides; tokenizer, preprocessing, precision, order and codec are the store's."""

    split: str | None = None
    new_classes: bool = False
    skip_known: bool = False
    weights: str | None = None
    config: str | None = None
    device: str = "cpu"
    source: str | None = None
    classes: Path | None = None
    masks: str | None = None
    ignore_index: int | None = None
    image_column: str | None = None
    label_column: str | None = None
    batch_size: int = 32
    part_size: int = 16_384
    limit: int | None = None


def append_images(
    place: str | Path, images: str, options: AppendOptions, running: Running
) -> BuildReport:
    """Tokenize more images into a store, or continue where an earlier call was interrupted.

    Raises:
        NotAStore: there is no store.
        SourceError: the images cannot be used.
        TokenizerError: the store's tokenizer cannot be loaded.
        Mismatch: its weights are not those of the store, or the store cannot take the images.
        BuildError: none of the images is new, or too many are rejected.
        PublishRace: somebody else published a version meanwhile.
        NoRoom: the disk is too full.
    """
    place = str(place).rstrip("/")
    store = open_store(place)
    said = SourceOptions(**{f.name: getattr(options, f.name) for f in fields(SourceOptions)})
    source = open_source(images, options.source, said)
    listing = source.listing()
    load_on = partial(_tokenizer_on, store, options)
    tokenizer = load_on(options.device)
    plan = make_plan(source.kind, listing, tokenizer, _build_options(store, options))
    done = _done(store, plan, options)
    if done is not None:
        clear_leftovers(place, done)
        return BuildReport(place, store.manifest, is_new=False, tokenized=0)
    with WorkProgress("comparing keys", None, stream=running.stream) as progress:
        plan = _arriving(plan, store, options, progress)
    if not plan.images():
        return BuildReport(place, store.manifest, is_new=False, tokenized=0)
    cells = int(np.prod(store.manifest.grid)) * plan.images()
    needed = BYTES_AN_ID * cells + least_store(
        plan.images(), store.manifest.grid, store.manifest.vocabulary.entropy
    )
    output = claim_staging(place, plan, needed)
    with room_for(place, needed):
        job = Job(plan, source, tokenizer, load_on)
        manifest, tokenized = _append(store, job, output, running)
    output.clear_staging()
    return BuildReport(place, manifest, is_new=True, tokenized=tokenized)


def _tokenizer_on(store: Store, options: AppendOptions, device: str) -> "Tokenizer":
    """The store's own tokenizer, on a device."""
    precision = str(store.manifest.tokenizer.config.get("precision", "fp32"))
    tokenizer: Tokenizer = store.tokenizer(device, options.weights, options.config, precision)
    return tokenizer


def _build_options(store: Store, options: AppendOptions) -> BuildOptions:
    """The options of a build that makes tokens as this store has them."""
    manifest = store.manifest
    resized = Preprocess.from_json(manifest.preprocess)
    views = Views.of(manifest.preprocess)
    rule: Order = "input" if manifest.order.rule == "input" else "shuffled"
    return BuildOptions(
        tokenizer=manifest.tokenizer.name,
        preprocess=resized.rule,
        image_size=resized.size,
        device=options.device,
        codec=manifest.table_sets[-1].codec,
        batch_size=options.batch_size,
        part_size=options.part_size,
        limit=options.limit,
        views=views.count,
        seed=views.seed if manifest.order.seed is None else manifest.order.seed,
        order=rule,
        keys=any("key" in split.columns for split in store.values()),
    )


def _facts(plan: Plan, onto: str | None, options: AppendOptions) -> dict[str, Any]:
    """What makes this append this one: the images as listed, and the version it builds on."""
    names = ("split", "new_classes", "skip_known")
    how = {"onto": onto, **{name: getattr(options, name) for name in names}}
    return {**plan.facts, "append": how}


def _done(store: Store, plan: Plan, options: AppendOptions) -> WorkPlan | None:
    """The plan by which some version of the store has these images already, if one has.

    Raises:
        BuildError: they are in the store by another plan, and it keeps no keys that could tell.
    """
    for version in load_versions(store.storage, store.manifest):
        same = WorkPlan(_facts(plan, version.parent, options))
        if version.parent is not None and version.plan == same.hash:
            return same
        if version.source.listing == plan.facts["source"]["listing"] and not plan.facts["keys"]:
            raise BuildError(
                f"version {version.version} of '{store.url}' was made of these very images, and "
                "the store keeps no keys by which they could be told apart. Nothing was appended."
            )
    return None


def _arriving(plan: Plan, store: Store, options: AppendOptions, progress: WorkProgress) -> Plan:
    """The plan for what the store does not have yet."""
    door = Door(store, options.new_classes, options.skip_known)
    listing = fitted(renamed_splits(plan.listing, options.split), door)
    listing = without_known_keys(listing, door, progress.advance)
    facts = _facts(plan, store.fingerprint, options)
    arriving = replace(plan, listing=listing, facts=facts)
    if not arriving.images() and not options.skip_known:
        raise BuildError(
            f"'{store.url}' has images of all {plan.images():,} keys already; nothing was appended"
        )
    return arriving


def _append(store: Store, job: Job, output: Output, running: Running) -> tuple[Manifest, int]:
    finished, tokenized = tokenize_plan(job, output.staging, running)
    fresh = open_storage(f"{output.staging.url}/new")
    images = sum(report.count for report in finished)
    with WorkProgress("packing", images, stream=running.stream) as bar:
        packer = Packer(running.workers, bar.advance)
        manifest = _pack((store, job), finished, (output.staging, fresh), packer)
    old = {file.name for file in store.manifest.files()}
    if load_manifest(output.target).hash != store.fingerprint:
        raise PublishRace(
            f"'{output.target.url}' got a new version while these images were tokenized. "
            f"Delete '{output.staging.url}' and repeat the line on top of it."
        )
    output.install(fresh, [file for file in manifest.files() if file.name not in old])
    return publish(output.target, manifest), tokenized


def _pack(
    onto: tuple[Store, Job],
    finished: Sequence[PartReport],
    places: tuple[Storage, Storage],
    packer: Packer,
) -> Manifest:
    """Write every new file and tell what the next version lists."""
    (store, job), (staging, fresh) = onto, places
    plan, old = job.plan, store.manifest
    check_any(plan, finished)
    counts = count_codes(plan, finished, staging)
    vocabulary = _grown(store, counts, job.tokenizer.codebook)
    packing = replace(_packing(onto, finished, places, vocabulary), packer=packer)
    splits = dict(old.splits)
    for name in plan.outline.splits:
        begun = splits.get(name) or new_split(plan, name)
        splits[name] = pack_split((name, begun), finished, packing)
    rejects = [Reject(*reject) for reject in all_rejects(plan, finished)]
    listed = load_rejects(store.storage, old.rejects)
    known = packing.number < len(old.table_sets)
    changes = {
        "version": old.version + 1,
        "parent": old.hash,
        "vocabulary": write_vocabulary(fresh, vocabulary),
        "table_sets": old.table_sets if known else (*old.table_sets, packing.tables),
        "splits": splits,
        "classes": plan.outline.classes,
        "source": SourceEntry(**plan.facts["source"]),
        "rejects": write_rejects(fresh, [*listed, *rejects]),
        "plan": plan.hash,
        "hash": None,
    }
    return old.model_copy(update=changes)


def _grown(
    store: Store, added: Mapping[str, NDArray[np.int64]], codebook: NDArray[np.float32]
) -> Vocabulary:
    """The store's vocabulary with what is new behind it, and the counts of the new version."""
    occurring = _sum(added.values(), len(codebook))
    before = np.zeros(len(codebook), np.int64)
    before[store.vocabulary.ids] = store.vocabulary.counts
    train = added.get("train", np.zeros_like(before))
    if "train" in store and len(store["train"]):
        weights = before + train
    elif train.any():
        weights = train  # from now on the counts are those of train
    else:
        weights = before + occurring
    return store.vocabulary.extended(
        occurring, weights, None if store.codebook is None else codebook
    )


def _sum(counts: Iterable[NDArray[np.int64]], size: int) -> NDArray[np.int64]:
    return sum(counts, start=np.zeros(size, np.int64))


def _packing(
    onto: tuple[Store, Job],
    finished: Sequence[PartReport],
    places: tuple[Storage, Storage],
    vocabulary: Vocabulary,
) -> Packing:
    """The store's last table set where it covers the vocabulary still, else a new one."""
    (store, job), (staging, fresh) = onto, places
    plan, sets = job.plan, store.manifest.table_sets
    number, block = len(sets) - 1, store.manifest.block
    if sets[number].vocabulary_size == len(vocabulary):
        codec, tables = store.codec(number), sets[number]
    else:
        codec = fit_codec(plan, finished, vocabulary, staging)
        tables, number = write_tables(fresh, codec), len(sets)
    return Packing(plan, staging, fresh, vocabulary, codec, tables, number, block)
