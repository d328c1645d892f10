"""Where a build writes: what may stand there before it begins, and what is left after it.

    STORE              the store; whole as soon as it has a manifest, which is written last
    STORE.building/    plan.json, and the finished parts; removed once the store is whole

An output that is neither absent nor empty is touched only if `STORE.building/plan.json` shows that
it is this build's own, interrupted; or left alone, as done, if the store's manifest carries the
hash of this plan. Everything else is refused.
"""

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenstore.build.plan import Plan, WorkPlan, differences
from tokenstore.build.stored_plan import PLAN, StoredPlan, changes, is_planned, read_plan
from tokenstore.errors import BuildError, InputChanged, PublishRace, StoreError
from tokenstore.manifest import NAME as MANIFEST
from tokenstore.manifest import FileEntry, load_manifest, load_versions
from tokenstore.space import check_room
from tokenstore.storage import PARTIAL, Storage, open_storage

IMAGES = {"source", "splits", "window"}  # the facts of a plan that only the images decide
OWN_FILE = re.compile(
    r"([\w-]+-\d{6}\.(tar|index)|(vocabulary|tables)-\w+\.safetensors|rejects-\w+\.parquet"
    r"|manifests/\d{6}\.json)"
)
LATE_FILE = re.compile(r"(parts|packed)/[\w-]+-\d{6}\.(json|safetensors)|.*\.partial")


@dataclass(frozen=True)
class Output:
    """The two places of one build."""

    target: Storage
    staging: Storage
    is_done: bool

    def install(self, fresh: Storage, files: Sequence[FileEntry]) -> None:
        """Move finished files into a store that does not list them yet; continue if interrupted.

        Raises:
            PublishRace: other files of these names are there; none is ever replaced.
        """
        for file in files:
            if not self.target.exists(file.name):
                self.target.take(fresh, file.name)
            elif hashlib.sha256(self.target.read(file.name)).hexdigest() != file.sha256:
                raise PublishRace(
                    f"'{self.target.url}' holds another {file.name}, which its manifest does not "
                    "list: somebody else is adding to the store, or was interrupted. Let that "
                    "finish, or delete that file; then delete "
                    f"'{self.staging.url}' and repeat the line."
                )

    def clear_staging(self) -> None:
        """Remove `STORE.building/`; the plan goes last, so that a kill leaves it explained."""
        for name in sorted(self.staging.names(), key=lambda name: name == PLAN):
            with contextlib.suppress(FileNotFoundError):  # a second builder clears it too
                self.staging.remove(name)
        shutil.rmtree(self.staging.url, ignore_errors=True)  # the empty folders of a local disk


def claim_output(place: str | Path, plan: WorkPlan, needed: int = 0) -> Output:
    """Make sure that this plan may write about `needed` bytes at `place`, and leave its mark there.

    Raises:
        BuildError: something else stands there; nothing was touched.
        NoRoom: the disk is too full for what is left to write.
    """
    place = str(place).rstrip("/")  # else the staging folder of "s/" would lie inside the store
    target, staging = open_storage(place), open_storage(f"{place}.building")
    if target.exists(MANIFEST):
        _check_same_store(target, plan)
        if _has_plan(staging):
            _is_begun(staging, plan)
        return Output(target, staging, is_done=True)
    begun = _is_begun(staging, plan)
    _check_no_strangers(place, target, begun)
    check_room(staging.url, needed - _written(staging) - _written(target))
    _begin((target, staging), plan, begun)
    return Output(target, staging, is_done=False)


def claim_staging(place: str | Path, plan: WorkPlan, needed: int = 0) -> Output:
    """Leave this plan's mark beside a store that is there and will get a new version.

    Raises:
        BuildError: other work on the store is under way or was interrupted.
        NoRoom: the disk is too full for what is left to write.
    """
    place = str(place).rstrip("/")
    target, staging = open_storage(place), open_storage(f"{place}.building")
    begun = _is_begun(staging, plan)
    check_room(staging.url, needed - _written(staging))
    _begin((target, staging), plan, begun)
    return Output(target, staging, is_done=False)


def found_plan(place: str | Path, facts: Mapping[str, Any]) -> StoredPlan | None:
    """The plan that is written beside a store to be, if there is a whole one.

    Args:
        place: of the store.
        facts: those of the build that is asked for, but for its images.

    Raises:
        BuildError: it is a plan of other options.
    """
    staging = open_storage(f"{str(place).rstrip('/')}.building")
    if not is_planned(staging):
        return None
    plan = read_plan(staging)
    others = {name: value for name, value in plan.facts.items() if name not in IMAGES}
    wanted = json.loads(json.dumps(facts))
    if others != wanted:
        raise _other_plan(staging, wanted, others)
    return plan


def open_building(place: str | Path) -> tuple[Output, StoredPlan | None]:
    """The place and the plan of a build that was begun; without a plan if its store is whole.

    Raises:
        BuildError: there is no whole plan.
    """
    place = str(place).rstrip("/").removesuffix(".building")
    target, staging = open_storage(place), open_storage(f"{place}.building")
    if target.exists(MANIFEST) and not staging.names():
        return Output(target, staging, is_done=True), None
    plan = read_plan(staging)
    return claim_output(place, plan), plan


@contextlib.contextmanager
def unless_whole(output: Output, plan: WorkPlan) -> Iterator[None]:
    """Do work on a build; what fails because somebody else has just finished it is no failure.

    Two builders of one plan write the same bytes, but the first one to finish clears the staging
    folder under the other's feet.
    """
    try:
        yield
    except (BuildError, StoreError, OSError):
        if not output.target.exists(MANIFEST):
            raise
        versions = load_versions(output.target, load_manifest(output.target))
        if plan.hash not in {version.plan for version in versions}:
            raise
        output.clear_staging()


def clear_leftovers(place: str | Path, plan: WorkPlan) -> None:
    """Remove the staging folder of work that is done, if it is this plan's."""
    place = str(place).rstrip("/")
    staging = open_storage(f"{place}.building")
    with contextlib.suppress(BuildError):  # other work is under way there; it stays
        if _is_begun(staging, plan):
            Output(open_storage(place), staging, is_done=True).clear_staging()


def _written(storage: Storage) -> int:
    """Bytes that interrupted work has left."""
    return sum(storage.size(name) for name in storage.names())


def _begin(places: tuple[Storage, Storage], plan: WorkPlan, begun: bool) -> None:
    """Leave the plan's mark, or clear away what its interrupted writers left half-written."""
    target, staging = places
    if begun:
        staging.sweep()
        target.sweep()
        return
    try:
        staging.create_new(PLAN, plan.as_json().encode())
    except FileExistsError:
        _is_begun(staging, plan)  # somebody else has just begun; with the same plan, we help


def _has_plan(staging: Storage) -> bool:
    """Whether somebody's plan lies there, and not only what a late writer left of a done build."""
    return staging.exists(PLAN) or not all(map(LATE_FILE.fullmatch, staging.names()))


def _is_begun(staging: Storage, plan: WorkPlan) -> bool:
    """Whether the staging folder belongs to this plan; a folder of anything else is refused."""
    names = [name for name in staging.names() if not name.endswith(PARTIAL)]
    if not names:
        return False
    try:
        facts = json.loads(staging.read(PLAN))
        known = facts["hash"]
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        raise BuildError(
            f"'{staging.url}' is in the way: it holds files but no readable {PLAN}, so it is no "
            "interrupted build. Move it away or choose another -o."
        ) from None
    if known != plan.hash:
        if isinstance(plan, Plan) and is_planned(staging) and _only_images_differ(plan, facts):
            raise InputChanged(
                f"the input has changed since '{staging.url}' was planned: "
                f"{changes(plan, staging)}. Put it back as it was, or delete that folder to begin "
                "anew, or choose another -o."
            )
        raise _other_plan(staging, plan.facts, facts)
    return True


def _other_plan(
    staging: Storage, wanted: Mapping[str, Any], found: Mapping[str, Any]
) -> BuildError:
    return BuildError(
        f"'{staging.url}' is an interrupted build of another plan "
        f"({'; '.join(differences(wanted, found)[:3])}). Repeat the line that began "
        "it, delete that folder, or choose another -o."
    )


def _only_images_differ(plan: Plan, facts: Mapping[str, Any]) -> bool:
    wanted = json.loads(plan.as_json())
    names = (wanted.keys() | facts.keys()) - IMAGES - {"hash"}
    return all(wanted.get(name) == facts.get(name) for name in names)


def _check_same_store(target: Storage, plan: WorkPlan) -> None:
    manifest = load_manifest(target)
    if plan.hash in {version.plan for version in load_versions(target, manifest)}:
        return  # also where more was appended since
    differing = ", ".join(plan.unlike(manifest)) or "plan: other options or versions"
    raise BuildError(
        f"'{target.url}' is a finished store with another {differing}. "
        "Choose another -o, or delete it first."
    )


def _check_no_strangers(place: str, target: Storage, begun: bool) -> None:
    if Path(place).is_file():
        raise BuildError(f"'{place}' is a file; a store is a folder. Choose another -o.")
    for name in target.names():
        own = OWN_FILE.fullmatch(name) or name.endswith(PARTIAL)
        if not (begun and own):
            raise BuildError(
                f"'{target.url}' exists and holds '{name}', which is no part of this build. "
                "Choose another -o, or empty that folder."
            )
