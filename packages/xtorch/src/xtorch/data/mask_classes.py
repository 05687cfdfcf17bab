"""What the values of a dataset's masks mean: real classes, blurred edges, "not labelled", no mask at all.

A mask of few codes is taken at its word. Codes whose pixels mostly lie between others in their surroundings
are blurred edges (anti-aliasing), and masks of very many codes (JPEG) are understood by their peaks; what
remains is snapped to the nearest class. A picture that no peaks explain is a photograph.

Shapes: H and W rows and columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from xtorch.data.class_list import ClassEntry
from xtorch.data.label_masks import (
    IGNORED,
    Kind,
    MaskLegend,
    RawMask,
    content_digest,
    decode_raw_mask,
    nearest_code,
)
from xtorch.errors import DataError

MAX_CLASSES = 64
"""More codes than this are no classes."""
_TOLERANCE = 40
"""Grey levels, or levels of a colour's parts, within which JPEG's noise stays around a class."""
_MAX_GREYS = 24
"""More grey values than this, spread over the whole range, are noise around fewer."""
_STEP = 8
"""Levels by which a pixel has to lie between its neighbours to be an edge."""
_EDGE_SHARE = 0.8
_PEAK_SHARE = 0.02
"""Of what is not the background: what a peak holds at least."""
_MIN_COVERED = 0.9
"""Share of a blurred mask's pixels that lie within `_TOLERANCE` of other masks' classes; less is none."""
_MIN_FLAT = 0.88
"""Share of a blurred mask's pixels, edges aside, that lie within `_STEP` of its own peaks. Masks that were
saved as JPEG have 0.93 and more, photographs 0.5, figures on white 0.82."""
_MAX_CODES = 4096
"""Of a blurred mask: the most frequent ones tell enough."""
_BACKGROUND_NAMES = frozenset({"background", "bg", "_background_", "none", "nothing", "void", "unlabelled"})


@dataclass(frozen=True, kw_only=True)
class MaskFacts:
    """One mask's file.

    Attributes:
        size: Width and height, upright.
        counts: Code -> pixels; of a blurred mask only of its most frequent codes.
        edges: Code -> how many of them lie between their neighbours.
        rest: Pixels of further codes.
        palette: Of indices.
        error: Why it cannot be used; then nothing else is known but the digest.
    """

    digest: str
    kind: Kind = "value"
    size: tuple[int, int] = (0, 0)
    counts: Mapping[int, int] = field(default_factory=dict)
    edges: Mapping[int, int] = field(default_factory=dict)
    rest: int = 0
    palette: tuple[int, ...] = ()
    error: str | None = None

    @property
    def blurred(self) -> bool:
        """Whether it has too many codes for each to be a class."""
        return self.rest > 0 or len(self.counts) > MAX_CLASSES


def mask_facts(path: Path) -> MaskFacts:
    """Reads a mask and describes it; anything wrong with it ends up in `error`."""
    try:
        data = path.read_bytes()
        digest = content_digest(data)
    except OSError as error:
        return MaskFacts(digest="", error=str(error.strerror))
    try:
        raw = decode_raw_mask(data)
    except DataError as error:
        return MaskFacts(digest=digest, error=error.message)
    codes, counts = np.unique(raw.codes_HW, return_counts=True)
    edges = Counter[int]()
    if raw.kind != "index" and len(codes) > 2:
        between_HW = _between(raw)
        for code, num in zip(*np.unique(raw.codes_HW[between_HW], return_counts=True), strict=True):
            edges[int(code)] = int(num)
    order = np.argsort(-counts, kind="stable")[:_MAX_CODES]
    return MaskFacts(
        digest=digest,
        kind=raw.kind,
        size=(raw.codes_HW.shape[1], raw.codes_HW.shape[0]),
        counts={int(codes[place]): int(counts[place]) for place in order},
        edges=edges,
        rest=int(counts.sum() - counts[order].sum()),
        palette=raw.palette,
    )


def _between(raw: RawMask) -> np.ndarray:
    """Pixels, bool [H,W], that in some channel have clearly lower and clearly higher ones beside them."""
    values = raw.codes_HW
    if raw.kind == "colour":
        channels = [(values >> shift & 0xFF).astype(np.uint8) for shift in (16, 8, 0)]
    else:
        channels = [values.astype(np.uint16)]
    found_HW = np.zeros(values.shape, bool)
    kernel = np.ones((3, 3), np.uint8)
    for channel_HW in channels:
        low_HW, high_HW = cv2.erode(channel_HW, kernel), cv2.dilate(channel_HW, kernel)
        found_HW |= (channel_HW - low_HW > _STEP) & (high_HW - channel_HW > _STEP)
    return found_HW


@dataclass(frozen=True, kw_only=True)
class Understood:
    """What the masks of a dataset mean.

    Attributes:
        legend: Code -> number of `names`.
        names: Of the classes.
        background: Which of them is the background; None: none is.
        photographs: Places of pictures that are no masks.
        unknown: Places of masks with codes that no class has; their pixels are ignored.
        blurred: Places of masks whose edges were snapped to the nearest class.
        void: Whether 255 means "not labelled".
        mixed: Whether masks of one class use different values for it.
        unmatched: Whether the list of classes does not fit the masks' codes.
    """

    legend: MaskLegend
    names: tuple[str, ...]
    background: int | None
    photographs: frozenset[int] = frozenset()
    unknown: frozenset[int] = frozenset()
    blurred: frozenset[int] = frozenset()
    void: bool = False
    mixed: bool = False
    unmatched: bool = False


def understand(masks: Sequence[MaskFacts], entries: Sequence[ClassEntry] = ()) -> Understood:
    """Finds out which code is which class.

    Args:
        masks: All readable ones of a dataset.
        entries: What a list of classes says.

    Raises:
        DataError: There are more codes than classes can be.
    """
    kind = _kind(masks, entries)
    counted = [_as_kind(mask, kind) for mask in masks]
    photographs, codes, has_edges = _told_apart(counted, kind)
    used = {place: mask for place, mask in enumerate(counted) if place not in photographs}
    if len(codes) > MAX_CLASSES:
        raise DataError(
            f"The masks have {len(codes)} different values.",
            value=len(codes),
            hint=f"a mask's value says which class a pixel has, at most {MAX_CLASSES}, not which object it "
            "belongs to",
        )
    snap = has_edges or any(mask.blurred for mask in used.values())
    found = _with_entries(codes, kind, entries, snap=snap) if entries else None
    unmatched = bool(entries) and found is None
    if found is None:
        found = _without_entries(codes, kind, list(used.values()))
    strange = set(found.unknown)
    return Understood(
        legend=MaskLegend(kind=kind, classes=found.classes, snap=snap),
        names=found.names,
        background=found.background,
        photographs=frozenset(photographs),
        unknown=frozenset(place for place, mask in used.items() if strange & mask.counts.keys()),
        blurred=frozenset(
            place
            for place, mask in used.items()
            if snap and (mask.rest or mask.counts.keys() - found.classes.keys())
        ),
        void=found.void,
        mixed=found.mixed,
        unmatched=unmatched,
    )


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What codes mean.

    Attributes:
        unknown: Codes that a list of classes lacks.
    """

    classes: dict[int, int]
    names: tuple[str, ...]
    background: int | None
    void: bool = False
    mixed: bool = False
    unknown: tuple[int, ...] = ()


# ----------------------------------------------------------------------------------------------- codes


def _kind(masks: Sequence[MaskFacts], entries: Sequence[ClassEntry]) -> Kind:
    """The one kind that all masks are read as."""
    # A single coloured photograph does not make colours of all grey masks.
    judged = [mask for mask in masks if not mask.blurred] or list(masks)
    kinds = {mask.kind for mask in judged}
    if "colour" in kinds:
        return "colour"
    if kinds == {"index"}:
        palettes = {
            tuple(mask.palette[code] if code < len(mask.palette) else 0 for code in range(256))
            for mask in judged
        }
        used = sorted(set().union(*(mask.counts.keys() for mask in judged)))
        same = len({tuple(palette[code] for code in used) for palette in palettes}) == 1
        if not same or any(entry.colour is not None for entry in entries):
            # Each file has its own palette: its indices mean nothing, its colours do.
            return "colour"
        return "index"
    return "value"


def _as_kind(mask: MaskFacts, kind: Kind) -> MaskFacts:
    if kind != "colour" or mask.kind == "colour":
        return mask
    high = max(mask.counts, default=0) > 255

    def colour(code: int) -> int:
        if mask.kind == "index":
            return mask.palette[code] if code < len(mask.palette) else 0
        return (code >> 8 if high else code) * 0x010101

    counts, edges = Counter[int](), Counter[int]()
    for code, num in mask.counts.items():
        counts[colour(code)] += num
    for code, num in mask.edges.items():
        edges[colour(code)] += num
    return MaskFacts(
        digest=mask.digest, kind="colour", size=mask.size, counts=counts, edges=edges, rest=mask.rest
    )


def _told_apart(masks: Sequence[MaskFacts], kind: Kind) -> tuple[set[int], list[int], bool]:
    """Which pictures are photographs, which codes are classes, and whether others are edges."""
    foreign = {place for place, mask in enumerate(masks) if (mask.kind == "colour") != (kind == "colour")}
    own = {place: mask for place, mask in enumerate(masks) if place not in foreign}
    clean = [mask for mask in own.values() if not mask.blurred]
    if 2 * len(clean) >= len(own):
        known, has_edges = _codes(clean, kind)
        if has_edges:
            known, has_edges = _codes([mask for mask in clean if _is_flat(mask, kind)], kind)
        strangers = {
            place
            for place, mask in own.items()
            # Where masks are noisy, a photograph may have no more codes than they.
            if (mask.blurred or has_edges)
            and not (_is_flat(mask, kind) and _covered(mask.counts, known, kind, _TOLERANCE) >= _MIN_COVERED)
        }
        return foreign | strangers, known, has_edges
    strangers = {place for place, mask in own.items() if not _is_flat(mask, kind)}
    pooled = Counter[int]()
    for place in own.keys() - strangers:
        pooled.update(_flat(own[place]))
    return foreign | strangers, sorted(_peaks(pooled, kind)), True


def _flat(mask: MaskFacts) -> Counter[int]:
    """Code -> pixels that are no edges."""
    return +Counter({code: num - mask.edges.get(code, 0) for code, num in mask.counts.items()})


def _codes(masks: Sequence[MaskFacts], kind: Kind) -> tuple[list[int], bool]:
    """Codes of clean masks that are classes, and whether others are edges or noise."""
    counts, edges = Counter[int](), Counter[int]()
    for mask in masks:
        counts.update(mask.counts)
        edges.update(mask.edges)
    if len(counts) <= 2:
        return sorted(counts), False
    kept = sorted(code for code, num in counts.items() if edges[code] < _EDGE_SHARE * num)
    small = kind != "colour" and max(counts) <= MAX_CLASSES
    if small or kind == "index":
        return sorted(counts), False
    has_edges = len(kept) < len(counts)
    is_noise = has_edges or (kind != "colour" and len(kept) > _MAX_GREYS)
    if is_noise and _are_close(kept, kind):
        # Noise around a few codes, as masks have that were JPEGs once.
        return sorted(_peaks(Counter(counts) - Counter(edges), kind)), True
    return kept, has_edges


def _are_close(codes: Sequence[int], kind: Kind) -> bool:
    """Whether two codes differ so little that nobody would choose them for two classes."""
    known = np.array(codes, np.int64)
    return any(
        (nearest_code(np.delete(known, place), known[place : place + 1], kind)[1] <= _STEP).any()
        for place in range(len(known))
    )


def _peaks(counts: Mapping[int, int], kind: Kind) -> list[int]:
    """Codes with much around them and no greater one near."""
    order = np.array(sorted(counts, key=lambda code: (-counts[code], code)), np.int64)
    nums = np.array([counts[int(code)] for code in order], np.int64)
    if not len(order) or nums[0] <= 0:
        return []
    near = nearest_code(order, order[:1], kind)[1] <= _TOLERANCE
    rest = int(nums[~near].sum())
    found = [int(order[0])]
    left = ~near
    while left.any():
        first = int(order[np.flatnonzero(left)[0]])
        window = left & (nearest_code(order, np.array([first]), kind)[1] <= _TOLERANCE)
        if nums[window].sum() >= _PEAK_SHARE * rest:
            found.append(first)
        left &= ~window
    return found


def _is_flat(mask: MaskFacts, kind: Kind) -> bool:
    """Whether nearly all of a mask has the colours of its peaks."""
    flat = _flat(mask)
    peaks = _peaks(flat, kind)
    return len(peaks) <= MAX_CLASSES and _covered(flat, peaks, kind, _STEP) >= _MIN_FLAT


def _covered(counts: Mapping[int, int], known: Sequence[int], kind: Kind, reach: int) -> float:
    """Share of pixels whose codes lie within `reach` of known ones."""
    if not known or not counts:
        return 0.0
    codes, nums = np.array(list(counts), np.int64), np.array(list(counts.values()), np.int64)
    near = nearest_code(codes, np.array(known), kind)[1] <= reach
    return float(nums[near].sum() / max(int(nums.sum()), 1))


# --------------------------------------------------------------------------------------------- classes


def _without_entries(codes: Sequence[int], kind: Kind, masks: Sequence[MaskFacts]) -> _Found:
    """Classes by ascending code, with names made up."""
    plain = kind != "colour"
    mixed = (
        plain
        and len(codes) > 2
        and set(codes) <= {0, 1, 255, 0xFFFF}
        # One class, painted with 1 in some masks and with 255 in others.
        and all(len(mask.counts.keys() - {0}) <= 1 for mask in masks)
    )
    real = [code for code in codes if mixed or not _is_void(code, codes, kind)]
    background = 0 if real and _is_dark(real[0], kind) else None
    if background == 0 and (mixed or len(real) == 2):
        names: tuple[str, ...] = ("background", "foreground")
        classes = {code: int(code != real[0]) for code in real}
    else:
        names = tuple(
            "background" if number == background else _made_up(code, kind) for number, code in enumerate(real)
        )
        classes = {code: number for number, code in enumerate(real)}
    void = len(real) < len(codes)
    return _Found(
        classes=classes | ({IGNORED: IGNORED} if void else {}),
        names=names,
        background=background,
        void=void,
        mixed=mixed,
    )


def _is_void(code: int, codes: Sequence[int], kind: Kind) -> bool:
    """Whether 255 beside small class numbers means "not labelled", as in Pascal VOC."""
    others = [other for other in codes if other != IGNORED]
    return kind != "colour" and code == IGNORED and len(others) > 1 and max(others) <= MAX_CLASSES


def _is_dark(code: int, kind: Kind) -> bool:
    """Black, but for the noise of JPEG; small numbers are taken at their word."""
    return code == 0 or (kind == "colour" and max(code >> 16, code >> 8 & 0xFF, code & 0xFF) <= _STEP)


def _made_up(code: int, kind: Kind) -> str:
    return f"#{code:06x}" if kind == "colour" else f"class {code}"


def _with_entries(
    codes: Sequence[int], kind: Kind, entries: Sequence[ClassEntry], *, snap: bool
) -> _Found | None:
    """Classes as listed; None where the list does not fit."""
    listed = _codes_of(entries, codes, kind)
    if listed is None:
        return None
    reach = _TOLERANCE if snap else 0
    far = nearest_code(np.array(codes, np.int64), np.array(listed, np.int64), kind)[1]
    if not (far <= reach).any():
        return None
    names = tuple(entry.name for entry in entries)
    classes = {code: number for number, code in enumerate(listed)}
    background = next(
        (number for number, name in enumerate(names) if name.casefold() in _BACKGROUND_NAMES), None
    )
    if background is None and 0 in codes and 0 not in classes:
        # Names of everything but the background.
        names, background = ("background", *names), 0
        classes = {0: 0} | {code: number + 1 for code, number in classes.items()}
    left = [
        code
        for code, distance in zip(codes, far, strict=True)
        if code not in classes and (distance > reach or code == IGNORED)
    ]
    void = kind != "colour" and _is_void(IGNORED, codes, kind) and IGNORED in left
    return _Found(
        classes=classes | dict.fromkeys(left, IGNORED),
        names=names,
        background=background,
        void=void,
        unknown=tuple(code for code in left if not (void and code == IGNORED)),
    )


def _codes_of(entries: Sequence[ClassEntry], codes: Sequence[int], kind: Kind) -> list[int] | None:
    """The code of each entry."""
    if all(entry.colour is not None for entry in entries):
        colours = [entry.colour for entry in entries if entry.colour is not None]
        # Grey masks of a list of grey colours.
        return colours if kind == "colour" else [colour & 0xFF for colour in colours]
    if all(entry.value is not None for entry in entries):
        values = [entry.value for entry in entries if entry.value is not None]
        return [min(value, 255) * 0x010101 for value in values] if kind == "colour" else values
    real = [code for code in codes if not _is_void(code, codes, kind)]
    if kind != "colour" and real and max(real) < len(entries):
        return list(range(len(entries)))
    if len(entries) == len(real):
        return real
    if real and real[0] == 0 and len(entries) == len(real) - 1:
        return real[1:]
    return None
