"""A survey for a terminal: aligned tables and bars of block characters, at most 100 columns wide."""

from collections.abc import Iterable, Sequence
from textwrap import shorten, wrap

from pipeline.analysis.dataset import Survey, bytes_per_sample, class_pixels, shard_sizes
from pipeline.analysis.dataset_duplicates import Twins
from pipeline.analysis.dataset_pixels import DepthCounts
from pipeline.analysis.scene import CAPTIONS

WIDTH = 100
BAR, SPLIT_BAR = 28, 16
MOST_CLASSES, MOST_DAMAGE = 40, 5

_EIGHTHS = " ▏▎▍▌▋▊▉█"

HOLES = ("no depth at all", "below 50 %", "50 to 90 %", "above 90 %", "everywhere")
"""What `DepthCounts.holes` counts: samples by how much of their depth is valid."""


def survey_text(found: Survey) -> str:
    """Everything a person wants to know first, in the order they want to know it."""
    parts = [_head(found), _damage(found), _splits(found), _classes(found), _depth(found), _factors(found)]
    parts += [_quarantine(found), _duplicates(found), _storage(found)]
    return "\n\n".join("\n".join(part) for part in parts if part)


def bar(share: float, width: int = BAR) -> str:
    """A bar of so much of the width; what is not nothing shows at least as a sliver."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    eighths = max(eighths, 1) if share > 0 else 0
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()).ljust(width)


def percent(part: int, whole: int) -> str:
    """A share in few digits, which says 0 and 100 only where it is exactly that."""
    if whole <= 0:
        return "-"
    share = 100.0 * part / whole
    if part == 0 or part == whole:
        return f"{share:.0f} %"
    if share < 0.1:
        return "<0.1 %"
    if share > 99.9:
        return ">99.9 %"
    return f"{share:.1f} %"


def size(count: int | float) -> str:
    """Bytes in a unit that leaves at most four digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def _table(rows: Sequence[Sequence[str]], left: Iterable[int] = (0,)) -> list[str]:
    """Columns as wide as needed: numbers to the right, names and bars to the left."""
    names = set(left)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column in names else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return lines


def _head(found: Survey) -> list[str]:
    info = found.description.info
    source = info.source.get("kind", "unknown")
    about = [
        f"{len(found.index.split_of):,} samples of {info.image_size} x {info.image_size} px",
        " + ".join(CAPTIONS[modality] for modality in info.modalities),
        size(shard_sizes(found)["total"]),
        f"source: {source}",
    ]
    seen = sum(found.pixels.samples.values())
    looked = f"all {seen:,}" if found.is_complete else f"{seen:,} evenly spread over each split (--limit)"
    if not seen:
        looked = "no sample, since no tar could be read here (a dataset behind a URL is not fetched for this)"
    return [
        str(found.directory),
        f"  {', '.join(about)}",
        f"  classes and depth: of {looked}; everything else: of all samples",
    ]


def _damage(found: Survey) -> list[str]:
    if not found.damage:
        return []
    lines = [f"DAMAGED: {len(found.damage)} found; make the dataset again"]
    lines += [_cut(f"  {damage.where}: {damage.what}") for damage in found.damage[:MOST_DAMAGE]]
    more = len(found.damage) - MOST_DAMAGE
    return [*lines, f"  and {more} more"] if more > 0 else lines


def _splits(found: Survey) -> list[str]:
    info, splits = found.description.info, found.index.splits
    most = max(split.samples for split in splits.values())
    rows = [("", "samples", "", *(f"no {CAPTIONS[modality]}" for modality in info.modalities))]
    for name, split in splits.items():
        missing = (
            f"{split.missing[modality]:,} ({percent(split.missing[modality], split.samples)})"
            if split.missing[modality]
            else "0"
            for modality in info.modalities
        )
        rows.append((name, f"{split.samples:,}", bar(split.samples / most, SPLIT_BAR), *missing))
    return ["Splits", *_table(rows, left=(0, 2))]


def _classes(found: Survey) -> list[str]:
    names = found.description.info.class_names
    if not names:
        return []
    pixels, splits = class_pixels(found), found.pixels.classes
    total = sum(pixels) + found.pixels.unlabelled
    most = max(1, *pixels)
    rows = [("", "class", "pixels", "", *splits)]
    for label, name in list(enumerate(names))[:MOST_CLASSES]:
        within = (
            percent(classes[label].samples, found.pixels.labelled[split]) for split, classes in splits.items()
        )
        rows.append((
            str(label),
            _cut(name, 18),
            percent(pixels[label], total),
            bar(pixels[label] / most),
            *within,
        ))
    if found.pixels.unlabelled:
        share = found.pixels.unlabelled
        rows.append(("", "(no label)", percent(share, total), bar(share / most), *("" for _ in splits)))
    lines = ["Classes: share of pixels, and of the samples in which the class occurs", *_table(rows, (1, 3))]
    absent = [name for name, count in zip(names, pixels, strict=True) if not count]
    if absent:
        lines += _wrapped(f"not seen: {', '.join(absent)}")
    if len(names) > MOST_CLASSES:
        lines.append(f"  and {len(names) - MOST_CLASSES} classes more, see --json")
    return lines


def _depth(found: Survey) -> list[str]:
    if "depth" not in found.description.info.modalities:
        return []
    depth = found.pixels.depth
    if depth is None:
        return ["Depth", "  not one valid pixel in the samples looked at"]
    marks = ", ".join(f"{share:.0%} {metres(value)}" for share, value in depth.quantiles_m.items())
    holes = [f"{name}: {count:,}" for name, count in zip(HOLES, depth.holes, strict=True) if count]
    return [
        f"Depth: {percent(depth.valid, depth.pixels)} of pixels valid, "
        f"{metres(depth.nearest_m)} to {metres(depth.farthest_m)} m",
        *_table(_depth_rows(depth), (2,)),
        *_wrapped(f"quantiles (m): {marks}"),
        *_wrapped(f"samples by share of valid pixels: {', '.join(holes)}"),
    ]


def _depth_rows(depth: DepthCounts) -> list[tuple[str, str, str]]:
    most = max(1, *depth.counts)
    last = len(depth.counts) - 1
    rows = []
    for place, count in enumerate(depth.counts):
        near, far = depth.edges_m[place], depth.edges_m[place + 1]
        if place == 0:
            near = min(near, depth.nearest_m)
        if place == last:
            far = max(far, depth.farthest_m)
        label = f"{metres(near)} to {metres(far)} m"
        rows.append((label, percent(count, depth.valid), bar(count / most)))
    return rows


def metres(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _factors(found: Survey) -> list[str]:
    factors = [factor for factor in found.description.info.factors if factor.values]
    if not factors:
        return []
    possible = 1
    for factor in factors:
        possible *= len(factor.values)
    seen = found.index.combinations
    rows = [("factor", "values", "least often", "most often")]
    for factor in factors:
        counts = [
            sum(split.factors[factor.name][place] for split in found.index.splits.values())
            for place in range(len(factor.values))
        ]
        least, most = counts.index(min(counts)), counts.index(max(counts))
        rows.append((
            _cut(factor.name, 18),
            f"{sum(count > 0 for count in counts)} of {len(counts)}",
            f"{_cut(factor.values[least], 16)} {counts[least]:,}",
            f"{_cut(factor.values[most], 16)} {counts[most]:,}",
        ))
    only = _only_in(found)
    return [
        f"Known factors: {seen:,} of {possible:,} combinations occur ({percent(seen, possible)})",
        *_table(rows, (0, 2, 3)),
        *[line for text in only for line in _wrapped(text)],
    ]


def _only_in(found: Survey) -> list[str]:
    """Values that only the held-out split has."""
    lines = []
    for factor in found.description.info.factors:
        counts = {name: split.factors.get(factor.name, ()) for name, split in found.index.splits.items()}
        values = [
            value
            for place, value in enumerate(factor.values)
            if "heldout" in counts
            and counts["heldout"][place]
            and not any(other[place] for name, other in counts.items() if name != "heldout")
        ]
        if values:
            lines.append(f"{factor.name} only in heldout: {', '.join(values)}")
    return lines


def _quarantine(found: Survey) -> list[str]:
    total = sum(reason.count for reason in found.quarantine)
    if not total:
        return ["Refused: nothing"]
    lines = [f"Refused: {total:,} (all of them in quarantine.parquet)"]
    for reason in found.quarantine:
        lines.append(_cut(f"  {reason.count:,} {reason.reason}, such as {reason.origin}: {reason.detail}"))
        lines += _wrapped(f"remedy: {reason.remedy}", "      ")
    return lines


def _duplicates(found: Survey) -> list[str]:
    twins = found.duplicates
    if twins.equal is None or twins.same_look is None:
        return ["Duplicates: not recorded; the dataset was made by an older version"]
    lines = ["Duplicates", *_twins("equal in every pixel", twins.equal)]
    lines += _twins("of the same look (RGB)", twins.same_look)
    if twins.alike_across:
        lines += _wrapped(
            f"{twins.alike_across:,} samples look like one of another split, up to 3 bits of 128; "
            "data.duplicates: perceptual refuses them"
        )
    return lines


def _twins(what: str, twins: Twins) -> list[str]:
    if not twins.sets:
        return [f"  {what}: none"]
    across = ", ".join(f"{count:,} shared by {pair}" for pair, count in twins.across.items())
    lines = _wrapped(
        f"{what}: {twins.samples:,} samples in {twins.sets:,} sets; {across or 'none across splits'}"
    )
    return lines + [_cut(f"      {' = '.join(example)}") for example in twins.examples]


def _storage(found: Survey) -> list[str]:
    sizes, means = shard_sizes(found), bytes_per_sample(found)
    stored = ", ".join(
        f"{found.description.members[modality]} {size(mean)}" for modality, mean in means.items()
    )
    return [
        "Stored",
        *_wrapped(f"per sample: {stored}; together {size(sum(means.values()))}"),
        f"  {sizes['count']:,} tars of {size(sizes['smallest'])} to {size(sizes['largest'])}, "
        f"typically {size(sizes['median'])}",
    ]


def _cut(text: str, width: int = WIDTH) -> str:
    indent = text[: len(text) - len(text.lstrip())]
    return indent + shorten(text, max(1, width - len(indent)), placeholder="…")


def _wrapped(text: str, indent: str = "  ") -> list[str]:
    return wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ")
