"""`tokenstore plan`: the first step of a build, and files that one can look at."""

import json
from typing import Any

import click

from tokenstore.build.plan import BuildPlan
from tokenstore.build.run import plan_store
from tokenstore.cli import build

# Options of `build` that say how it runs; they are no matter of its plan.
RUNNING = {"engine", "stripe", "workers", "strict", "max_rejects"}
MOST = 10  # parts that are told


def command_body(as_json: bool, **options: Any) -> None:
    """Write the plan and tell of it."""
    place = options["output"] or build.default_place(options["images"])
    plan = plan_store(options["images"], place, build.build_options(options))
    if as_json:
        parts = [
            {"name": slot.name, "split": slot.split, "start": slot.start, "images": slot.count}
            for slot in plan.slots()
        ]
        outline = plan.outline
        rejects = [reject._asdict() for reject in outline.rejects]
        facts = {"store": place, "hash": plan.hash, **plan.facts, "parts": parts}
        click.echo(json.dumps({**facts, "classes": outline.classes, "rejects": rejects}))
    else:
        _tell(plan, place)


def _tell(plan: BuildPlan, place: str) -> None:
    slots = plan.slots()
    for split, images in plan.outline.splits.items():
        parts = sum(slot.split == split for slot in slots)
        click.echo(f"{split:<6} {images:>12,} images  {parts:>8,} parts")
    for slot in slots[:MOST]:
        end = slot.start + slot.count
        click.echo(f"  {slot.name}  images {slot.start:,} to {end - 1:,}")
    if len(slots) > MOST:
        click.echo(f"  ... and {len(slots) - MOST:,} more")
    for reject in plan.outline.rejects:
        click.echo(f"rejected {reject.path}: {reject.reason}")
    click.echo(f"plan {plan.hash[:16]} is in {place}.building/plan.json, its images in plan/")
    click.echo("next:  the same line with `build`, or many of them with --part I/N, then `finish`")


command = click.Command(
    "plan",
    callback=command_body,
    params=[option for option in build.command.params if option.name not in RUNNING],
    help="""Plan a build: list the images of INPUT once, in their final order, cut into parts.

    Nothing is decoded. The plan lies in STORE.building, where `tokenstore build` with the same
    options, here or on other machines, takes it up.
    """,
    epilog="Example: tokenstore plan photos/ -o photos.tokenstore --part-size 4096",
)
