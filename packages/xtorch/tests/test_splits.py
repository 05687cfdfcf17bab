from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from xtorch.data.check import UsableImage
from xtorch.data.layout import DEFECTIVE, OK
from xtorch.data.splits import split


def images(
    num_ok: int, num_defective: int, *, seed: int = 0, part: bool = False, kinds: int = 3
) -> list[UsableImage]:
    """Images in random groups of one to four; with `part`, a third of them is a given test part."""
    rng = np.random.default_rng(seed)
    out: list[UsableImage] = []
    group = 0
    for label, number in ((OK, num_ok), (DEFECTIVE, num_defective)):
        for index in range(number):
            if rng.random() < 0.7:
                group += 1
            out.append(
                UsableImage(
                    path=f"{label}/{index:04d}.png",
                    label=label,
                    kind=None if label == OK else f"kind{index % kinds}",
                    part=("test" if index % 3 == 0 else "train") if part else None,
                    digest=f"sha256:{label}{index}",
                    group=group * 10 + label,
                )
            )
    return out


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("num_ok", "num_defective"), [(20, 4), (60, 12), (150, 40), (301, 77)])
def test_split_is_disjoint_complete_and_never_parts_a_group(
    num_ok: int, num_defective: int, seed: int
) -> None:
    given = images(num_ok, num_defective, seed=seed)
    done = split(given, seed=seed)
    placed = [image.path for part in done.parts.values() for image in part]
    assert sorted(placed) == sorted(image.path for image in given)
    parts_of_group: dict[int, set[str]] = defaultdict(set)
    for name, part in done.parts.items():
        for image in part:
            parts_of_group[image.group].add(name)
    assert all(len(parts) == 1 for parts in parts_of_group.values())
    counts = done.counts()
    assert counts["test"]["ok"] > 0
    assert counts["test"]["defective"] > 0
    assert counts["train"]["ok"] >= 0.4 * num_ok


def test_split_is_the_same_for_a_seed_and_another_for_another() -> None:
    given = images(100, 30)
    assert split(given, seed=1) == split(list(reversed(given)), seed=1)
    assert split(given, seed=1).test != split(given, seed=2).test


def test_split_takes_exactly_the_given_test_part() -> None:
    given = images(90, 30, part=True)
    done = split(given, seed=0)
    assert {image.path for image in done.test} == {image.path for image in given if image.part == "test"}
    assert done.counts()["validation"]["ok"] > 0


def test_split_gives_every_part_its_share_of_every_kind() -> None:
    done = split(images(200, 90, kinds=3), seed=0)
    for part, share in (("train", 0.55), ("validation", 0.2), ("test", 0.25)):
        for kind in ("kind0", "kind1", "kind2"):
            number = sum(image.kind == kind for image in done.parts[part])
            assert abs(number - share * 30) <= 5


def test_split_keeps_defects_for_testing_when_there_are_few() -> None:
    assert split(images(60, 6), seed=0).counts()["test"]["defective"] == 6
    counts = split(images(60, 14), seed=0).counts()
    assert counts["train"]["defective"] == 0
    assert counts["validation"]["defective"] >= 4


@pytest.mark.parametrize("num_groups", [1, 2])
@pytest.mark.parametrize("part", [False, True])
def test_split_divides_groups_that_are_too_large_to_be_kept_together(num_groups: int, part: bool) -> None:
    given = [replace(image, group=index % num_groups) for index, image in enumerate(images(60, 0, part=part))]
    done = split(given, seed=0)
    counts = done.counts()
    assert all(counts[name]["ok"] >= 4 for name in counts)
    assert sorted(i.path for p in done.parts.values() for i in p) == sorted(i.path for i in given)
    assert "look alike" in done.protocol
    assert "look alike" not in split(images(60, 12), seed=0).protocol
