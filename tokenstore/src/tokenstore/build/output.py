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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenstore.build.plan import WorkPlan, differences
from tokenstore.errors import BuildError, PublishRace
from tokenstore.manifest import NAME as MANIFEST
from tokenstore.manifest import FileEntry, load_manifest, load_versions
from tokenstore.space import check_room
from tokenstore.storage import PARTIAL, Storage, open_storage

PLAN = "plan.json"
OWN_FILE = re.compile(
    r"([\w-]+-\d{6}\.(tar|index)|(vocabulary|tables)-\w+\.safetensors|rejects-\w+\.parquet"
    r"|manifests/\d{6}\.json)"
)


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
    begun = _is_begun(staging, plan)
    if target.exists(MANIFEST):
        _check_same_store(target, plan)
        return Output(target, staging, is_done=True)
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
        raise BuildError(
            f"somebody else has just begun to write at '{staging.url}'. "
            "Wait until that is done, or choose another -o."
        ) from None


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
        raise BuildError(
            f"'{staging.url}' is an interrupted build of another plan "
            f"({'; '.join(differences(plan.facts, facts)[:3])}). Repeat the line that began it, "
            "delete that folder, or choose another -o."
        )
    return True


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
