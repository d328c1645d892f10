"""Compose: the augmentation policy that a recipe writes down, made for a store and run.

A policy is a list of one-key mappings, name to options, in the order in which they run:

    [{eda: {}}, {random_resized_crop: {scale: [0.2, 1.0]}}, {emb_noise: {p: 0.5}}, {cutmix: {}}]

It starts from ranks. They are embedded before the first augmentation that needs vectors, and at
the end brought to what the model takes: embedded, or turned back into the nearest ranks. Grids with
channels become numbers at once. An entry `one_of` draws one of several policies for a batch:

    {one_of: {p: [0.75, 0.25], of: [{emb_noise: {}}, {color_adapt: {}}]}}

and `halves` gives the first images of a batch to one policy and the rest to another:

    {halves: {first: [{token_adapt: {weights: RUN}}], rest: [{random_resized_crop: {}}]}}
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, Self, cast

import torch
import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator
from torch import Tensor, nn

from seit_train.augment.base import AnyAugmentation, Augmentation, Embedder, Surroundings, View
from seit_train.augment.crop import center_crop
from seit_train.config import Settings, Share
from tokenstore.errors import TrainingError, UnknownName, UsageError
from tokenstore.registry import find, names

_PACKAGE = "seit_train.augment"


def _checked(entries: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    for entry in entries:
        parse_entry(entry)
    return entries


# The type of a recipe's `augment` key. It stays as it was written, and is checked when read.
PolicyEntries = Annotated[tuple[dict[str, Any], ...], AfterValidator(_checked)]


class OneOfOptions(Settings):
    """Which policies are drawn from, and how often each; what is missing to 1 is "none"."""

    p: tuple[Share, ...]
    of: Annotated[PolicyEntries, Field(min_length=1)]

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if len(self.p) != len(self.of) or sum(self.p) > 1 + 1e-6:
            raise ValueError(
                f"one_of has {len(self.of)} entries and needs as many chances that sum to at most "
                f"1, got {list(self.p)}"
            )
        return self


class OneOf(Augmentation[OneOfOptions]):
    """One draw for the whole batch among augmentations of grids that keep their size.

    All of them are computed and one is taken, so that the host need not know which.
    """

    space = "grid"
    Options = OneOfOptions
    keeps_masks = True

    def __init__(self, options: OneOfOptions, around: Surroundings) -> None:
        super().__init__(options, around)
        self.members = nn.ModuleList(make_augmentation(entry, around) for entry in options.of)
        for member in self.members:
            member = cast(AnyAugmentation, member)
            if member.space == "ranks" or member.size != around.size:
                raise TrainingError(
                    "one_of chooses among augmentations of vectors that keep the grid's size; "
                    f"{type(member).__name__} is none"
                )

    def forward(self, view: View, rng: torch.Generator) -> View:
        """Float32 [B,d,h,w] -> the same shape."""
        lot = torch.rand((), generator=rng, device=view.tokens.device)
        result, below = view, 0.0
        for p, member in zip(self.options.p, self.members, strict=True):
            drawn = (lot >= below) & (lot < below + p)
            result = _either(drawn, member(view, rng), result)
            below += p
        return result


class HalvesOptions(Settings):
    """What is done to the first images of a batch, and what to the rest.

    Attributes:
        share: of the batch that `first` gets.
        first: its policy.
        rest: the policy of the others.
    """

    share: Share = 0.5
    first: PolicyEntries
    rest: PolicyEntries


class Halves(Augmentation[HalvesOptions]):
    """Two policies for two parts of every batch, as SeiT++ divides it [code].

    Batches are shuffled, so the first images are as random as any others.
    """

    space = "grid"
    Options = HalvesOptions
    keeps_masks = True

    def __init__(self, options: HalvesOptions, around: Surroundings) -> None:
        super().__init__(options, around)
        self.first, first = self._chain(options.first, around)
        self.rest, rest = self._chain(options.rest, around)
        if first != rest:
            raise TrainingError(
                f"halves leaves grids of {first[0]}x{first[1]} in the first images and "
                f"{rest[0]}x{rest[1]} in the rest. Set the same size in both."
            )
        self.size = first

    def _chain(
        self, entries: Sequence[Mapping[str, Any]], around: Surroundings
    ) -> tuple[nn.ModuleList, tuple[int, int]]:
        members = []
        for entry in entries:
            member = make_augmentation(entry, around)
            if member.space == "ranks":
                raise TrainingError(
                    f"{next(iter(entry))} works on ranks; in the augment list it stands before "
                    "halves, which divides vectors"
                )
            around = replace(around, size=member.size)
            members.append(member)
        return nn.ModuleList(members), around.size

    def forward(self, view: View, rng: torch.Generator) -> View:
        """Float32 [B,d,h,w] -> [B,d,*size]."""
        return self._divide(view, None, rng)

    def from_ranks(self, view: View, embed: Embedder, rng: torch.Generator) -> View:
        """Int64 [B,h,w] -> float32 [B,d,*size]."""
        return self._divide(view, embed, rng)

    def _divide(self, view: View, embed: Embedder | None, rng: torch.Generator) -> View:
        first = round(len(view.tokens) * self.options.share)
        parts = []
        for some, members in ((slice(first), self.first), (slice(first, None), self.rest)):
            part = view.rows(some)
            for member in members:
                part = _run(cast(AnyAugmentation, member), part, embed, rng)
            parts.append(_as(part, "grid", embed))
        return View(
            torch.cat([part.tokens for part in parts]),
            _joined([part.targets for part in parts]),
            _joined([part.masks for part in parts]),
        )


class Policy(nn.Module):
    """A list of augmentations made for one store: ranks in, what the model takes out."""

    def __init__(
        self,
        entries: Sequence[Mapping[str, Any]],
        around: Surroundings,
        embed: Embedder | None,
        output: Literal["ranks", "grid"],
    ) -> None:
        """Make every augmentation, and refuse an order that cannot work.

        Args:
            entries: as a recipe writes them.
            around: what is known of the store's ranks.
            embed: of the same codebook, or None.
            output: what the model takes.

        Raises:
            TrainingError: an augmentation needs a codebook that the store does not have, or
                works on ranks where there are vectors already.
        """
        super().__init__()
        self.embed, self.output, self.size = embed, output, around.size
        self.begin = around.channels or nn.Identity()
        members, space = [], "ranks" if around.channels is None else "grid"
        for entry in entries:
            member = make_augmentation(entry, replace(around, size=self.size))
            name = next(iter(entry))
            if member.space == "ranks" and space == "grid":
                raise TrainingError(
                    f"{name} works on ranks, so in the augment list it must come before those "
                    "that work on vectors; a grid with channels has vectors from the start"
                )
            space = "grid" if member.space == "grid" else space
            self._refuse_without_codebook(name, space)
            self.size = member.size
            members.append(member)
        self._refuse_without_codebook("the model's codebook embedding", output)
        if around.channels is not None and output == "ranks":
            raise TrainingError("grids with channels hold numbers: set model.embedding=codebook")
        self.members = nn.ModuleList(members)

    def _refuse_without_codebook(self, name: str, space: str) -> None:
        if space == "grid" and self.embed is None and isinstance(self.begin, nn.Identity):
            raise TrainingError(
                f"{name} works on codebook vectors, and this store has no codebook. Import it "
                "again with --codebook FILE, or use random_crop and model.embedding=ids."
            )

    def refuse_for_masks(self) -> None:
        """Refuse what would tear images from their masks.

        Raises:
            TrainingError: an augmentation mixes images, or moves places and not those of masks.
        """
        for member in self.members.modules():
            if isinstance(member, Augmentation) and not member.keeps_masks:
                raise TrainingError(
                    f"{type(member).__name__} mixes images or moves their places without those of "
                    "the masks. Leave it out of the augment list: random_crop, token_adapt without "
                    "mixing, eda with swap_p: 0, emb_noise and color_adapt go with masks."
                )

    def forward(
        self,
        ranks: Tensor,
        targets: Tensor | None,
        rng: torch.Generator,
        masks: Tensor | None = None,
    ) -> View:
        """Int64 [B,*grid] -> ranks int64 [B,*size] or vectors float32 [B,d,*size], and the rest.

        Runs in float32 whatever the caller's autocast says: ranks are found by small differences.
        """
        with torch.no_grad(), torch.autocast(ranks.device.type, enabled=False):
            view = View(self.begin(ranks), targets, masks)
            for member in self.members:
                view = _run(cast(AnyAugmentation, member), view, self.embed, rng)
            return _as(view, self.output, self.embed)

    def plain(self, ranks: Tensor) -> Tensor:
        """The centre crop of evaluation, in the size and space that `forward` has."""
        with torch.autocast(ranks.device.type, enabled=False):
            tokens = self.begin(center_crop(ranks, self.size))
            return _as(View(tokens, None), self.output, self.embed).tokens


def make_augmentation(entry: Mapping[str, Any], around: Surroundings) -> AnyAugmentation:
    """`{"emb_noise": {"p": 0.5}}` -> that augmentation.

    Raises:
        UnknownName: no augmentation of that name, or it has no such option.
        UsageError: the entry is no one-key mapping, or an option has a wrong value.
        TrainingError: the options do not fit the store.
    """
    kind, options = parse_entry(entry)
    return kind(options, around)


def parse_entry(entry: Mapping[str, Any]) -> tuple[type[AnyAugmentation], Settings]:
    """The class and the checked options that an entry of a policy stands for.

    Raises:
        UnknownName: no augmentation of that name, or it has no such option.
        UsageError: the entry is no one-key mapping, or an option has a wrong value.
    """
    if len(entry) != 1 or not isinstance(next(iter(entry.values())), Mapping | None):
        raise UsageError(
            f"an entry of augment is one name with its options, such as {{emb_noise: {{p: 0.5}}}}, "
            f"not {dict(entry)}"
        )
    name, options = next(iter(entry.items()))
    kind = _kind(name)
    try:
        return kind, kind.Options.model_validate(dict(options or {}))
    except ValidationError as error:
        raise _explain(error, name, kind.Options) from None


def written(entries: Sequence[Mapping[str, Any]]) -> str:
    """A policy as a recipe writes it: YAML, an entry a line."""
    lines = []
    for name, options in ((name, entry[name]) for entry in entries for name in entry):
        text = yaml.safe_dump(
            options or {}, default_flow_style=True, sort_keys=False, width=float("inf")
        )
        lines.append(f"- {name}: {text.strip()}")
    return "\n".join(lines)


def _kind(name: str) -> type[AnyAugmentation]:
    if name in _COMBINED:
        return _COMBINED[name]
    known = {*_COMBINED, *(n.replace("-", "_") for n in names(_PACKAGE))}
    if name not in known:
        raise UnknownName("augmentation", name, known)
    return cast(type[AnyAugmentation], find(_PACKAGE, name.replace("_", "-")))


_COMBINED: dict[str, type[AnyAugmentation]] = {"one_of": OneOf, "halves": Halves}


def _explain(error: ValidationError, name: str, options: type[Settings]) -> UsageError:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return UnknownName(f"option of {name}", place, options.model_fields)
    message = first["msg"].removeprefix("Value error, ")
    return UsageError(f"augmentation {name}: {place or 'options'}: {message}")


def _either(drawn: Tensor, chosen: View, otherwise: View) -> View:
    """One of two views of a batch, by a 0-d bool on its device."""
    targets = otherwise.targets
    if chosen.targets is not None and targets is not None:
        targets = torch.where(drawn, chosen.targets, targets)
    masks = otherwise.masks
    if chosen.masks is not None and masks is not None:
        masks = torch.where(drawn, chosen.masks, masks)
    return View(torch.where(drawn, chosen.tokens, otherwise.tokens), targets, masks)


def _joined(columns: Sequence[Tensor | None]) -> Tensor | None:
    """The rows of several parts of a batch, one after the other."""
    there = [column for column in columns if column is not None]
    return torch.cat(there) if there else None


def _run(member: AnyAugmentation, view: View, embed: Embedder | None, rng: torch.Generator) -> View:
    """One augmentation of a view that is still ranks, or vectors already."""
    if member.space == "grid" and embed is not None and view.tokens.ndim == 3:
        return member.from_ranks(view, embed, rng)
    result: View = member(view, rng)
    return result


def _as(view: View, space: Literal["ranks", "grid"], embed: Embedder | None) -> View:
    """A view with vectors or with ranks, whichever it had; without a codebook, as it is."""
    tokens, is_grid = view.tokens, view.tokens.ndim == 4
    if embed is None or is_grid == (space == "grid"):
        return view
    return view._replace(tokens=embed.nearest(tokens) if is_grid else embed(tokens))
