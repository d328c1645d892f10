"""Every error that a user of this project can meet, as one tree.

    TokenstoreError                 anything we refuse; the commands print it and exit with 2
    ├── UsageError                  the request itself is wrong: contradicting options, a bad value
    │   ├── UnknownName             no plugin of that name; lists the known ones
    │   └── OutOfRange              a sample number that a split does not have; an IndexError too
    ├── BrokenPlugin                a plugin of another package that cannot be imported
    ├── SourceError                 the input corpus cannot be used (no images, unreadable folder)
    │   ├── ImageRejected           one image cannot be used; a build counts it and goes on
    │   └── InputChanged            the corpus is no longer the one that was planned
    ├── TokenizerError              an image size, an id or a device that a tokenizer cannot take
    │   └── WeightsError            a weights file that is missing, damaged or of another model
    ├── BuildError                  a build that cannot start or go on (output exists, other plan)
    ├── StoreError                  a store that cannot be read or written as asked
    │   ├── NotAStore               there is no manifest here
    │   ├── FormatTooNew            written by a newer version: format number or required feature
    │   ├── ManifestError           the manifest is damaged or contradicts itself
    │   ├── CorruptStore            bytes differ from what the manifest or index promises
    │   │   └── CorruptRecord       the bytes of one image; names store, shard and sample
    │   ├── NoRoom                  the disk is too full for what was asked
    │   └── PublishRace             somebody else published this version first
    ├── CodecError                  ranks or bytes that a codec cannot take
    ├── Mismatch                    two things that must belong together do not (vocabulary, store)
    └── TrainingError               a run that cannot start or go on (recipe, checkpoint, loss)
        └── Interrupted             somebody asked it to stop; all is kept, exit code 130

A message says what, where, the value, what was expected and the cure, in one or two sentences.
"""

import difflib
from collections.abc import Iterable

MOST_NAMES = 50  # that a message lists; ImageNet has thousands of classes


class TokenstoreError(Exception):
    """Anything this project refuses to do, with the cure in the message."""


class UsageError(TokenstoreError):
    """The request itself is wrong: options that contradict each other, or a bad value."""


class UnknownName(UsageError, KeyError):
    """No plugin, recipe or key of that name; the message lists the nearest and the known ones.

    It is a KeyError too, so that `store.get("test")` is None where there is no such split.
    """

    __str__ = Exception.__str__  # a KeyError would quote the message

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        """Compose the message.

        Args:
            kind: what was looked for, as a user calls it ("tokenizer", "recipe key").
            name: the name that is not known.
            known: all names that would have been accepted.
            hint: a closing sentence, where there is more to say.
        """
        self.kind, self.name, self.known = kind, name, sorted(known)
        near = difflib.get_close_matches(name, self.known, n=3, cutoff=0.5)
        guess = f" Did you mean {' or '.join(near)}?" if near else ""
        listed = ", ".join(self.known[:MOST_NAMES]) or "none"
        if len(self.known) > MOST_NAMES:
            listed += f" ... {len(self.known):,} in all"
        message = f"unknown {kind} '{name}'.{guess} Known: {listed}."
        super().__init__(f"{message} {hint}".rstrip())

    def __reduce__(self) -> tuple[type["UnknownName"], tuple[str, str, list[str]]]:
        """Pickle by the arguments, since the message alone cannot rebuild them."""
        return (type(self), (self.kind, self.name, self.known))


class OutOfRange(UsageError, IndexError):
    """A sample number outside its split; an IndexError, so that a split is a Python sequence."""


class BrokenPlugin(TokenstoreError):
    """A plugin that another package promises cannot be imported."""


class SourceError(TokenstoreError):
    """The input corpus cannot be used."""


class ImageRejected(SourceError):
    """One image cannot be used; its message is the reason listed among the rejects."""


class InputChanged(SourceError):
    """The corpus is no longer the one that a build was planned for."""


class TokenizerError(TokenstoreError):
    """An image size, an id or a device that a tokenizer cannot take."""


class WeightsError(TokenizerError):
    """A weights file that is missing, damaged or made for another model."""


class BuildError(TokenstoreError):
    """A build that cannot start or go on."""


class StoreError(TokenstoreError):
    """A store that cannot be read or written as asked."""


class NotAStore(StoreError):
    """There is no manifest at this place."""


class FormatTooNew(StoreError):
    """The store was written by a newer version of tokenstore."""


class ManifestError(StoreError):
    """The manifest is damaged or contradicts itself."""


class CorruptStore(StoreError):
    """Bytes of the store differ from what its manifest or index promises."""


class CorruptRecord(CorruptStore):
    """The bytes of one image are wrong; the message names store, shard and sample."""


class NoRoom(StoreError):
    """The disk is too full for what was asked."""


class PublishRace(StoreError):
    """Somebody else published this version of the store first."""


class CodecError(TokenstoreError):
    """Ranks or bytes that a codec cannot take."""


class Mismatch(TokenstoreError):
    """Two things that must belong together do not: a vocabulary, a store, a checkpoint."""


class TrainingError(TokenstoreError):
    """A training run that cannot start or go on."""


class Interrupted(TrainingError):
    """Somebody asked a training run to stop; everything is kept and it can be continued."""
