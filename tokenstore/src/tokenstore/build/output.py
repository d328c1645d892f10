"""Where a build writes: what may stand there before it begins, and what is left after it.

    STORE              the store; whole as soon as it has a manifest, which is written last
    STORE.building/    plan.json, and the finished parts; removed once the store is whole

An output that is neither absent nor empty is touched only if `STORE.building/plan.json` shows that
it is this build's own, interrupted; or left alone, as done, if the store's manifest carries the
hash of this plan. Everything else is refused.
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from tokenstore.build.plan import Plan, differences
from tokenstore.errors import BuildError
from tokenstore.manifest import NAME as MANIFEST
from tokenstore.manifest import load_manifest
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

    def clear_staging(self) -> None:
        """Remove `STORE.building/`; the plan goes last, so that a kill leaves it explained."""
        for name in sorted(self.staging.names(), key=lambda name: name == PLAN):
            self.staging.remove(name)
        shutil.rmtree(self.staging.url, ignore_errors=True)  # the empty folders of a local disk


def claim_output(place: str | Path, plan: Plan) -> Output:
    """Make sure that this plan may write at `place`, and leave its mark there.

    Raises:
        BuildError: something else stands there; nothing was touched.
    """
    place = str(place).rstrip("/")  # else the staging folder of "s/" would lie inside the store
    target, staging = open_storage(place), open_storage(f"{place}.building")
    begun = _is_begun(staging, plan)
    if target.exists(MANIFEST):
        _check_same_store(target, plan)
        return Output(target, staging, is_done=True)
    _check_no_strangers(place, target, begun)
    if begun:
        staging.sweep()
        target.sweep()
    else:
        staging.create(PLAN, plan.as_json().encode())
    return Output(target, staging, is_done=False)


def _is_begun(staging: Storage, plan: Plan) -> bool:
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


def _check_same_store(target: Storage, plan: Plan) -> None:
    manifest = load_manifest(target)
    if manifest.plan == plan.hash:
        return
    facts = plan.facts
    pairs = {
        "input": (manifest.source.listing, facts["source"]["listing"]),
        "tokenizer": (manifest.tokenizer.model_dump(), facts["tokenizer"]),
        "preprocess": (manifest.preprocess, facts["preprocess"]),
        "codec": ([tables.codec for tables in manifest.table_sets], [facts["codec"]]),
        "order": (manifest.order.rule, facts["order"]),
    }
    differing = [name for name, (found, wanted) in pairs.items() if found != wanted]
    raise BuildError(
        f"'{target.url}' is a finished store with another "
        f"{', '.join(differing) or 'plan: other options or versions'}. "
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
