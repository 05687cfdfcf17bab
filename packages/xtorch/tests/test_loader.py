"""The loader gives the same batches whatever loads them, from any position, and ends cleanly."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xtorch.data.loader import ExtendedDataLoader
from xtorch.data.loading.choose import label
from xtorch.data.loading.collate import collate
from xtorch.errors import DataError, ForeignCheckpointError, SampleError, SettingsError, WorkerError
from xtorch.transforms import ImageSample

KINDS: list[tuple[Any, int]] = [
    ("none", 0),
    ("threads", 1),
    ("threads", 3),
    ("processes", 2),
]


class Seeded:
    """Samples that say which they are and what they drew."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        return {"index": index, "noise": rng.standard_normal(3), "image": np.full((4, 5, 3), index, np.uint8)}


class Plain:
    """The same from the process's generators, as most datasets do it."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[int, float, float, torch.Tensor]:
        return index, random.random(), float(np.random.random()), torch.rand(2)


class Broken(Seeded):
    """Every fifth sample fails; where `fatal`, sample 7 ends the process."""

    def __init__(self, size: int, *, fatal: bool = False) -> None:
        super().__init__(size)
        self.fatal = fatal

    def describe(self, index: int) -> str:
        return f"picture {index}.jpg"

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        if self.fatal and index == 7:
            os._exit(3)
        if not self.fatal and index % 5 == 4:
            raise DataError("The image cannot be decoded: cut short", hint="send it again")
        return super().sample(index, rng)


def flat(batches: Any) -> list[Any]:
    """Batches as nested lists, to be compared."""
    if isinstance(batches, torch.Tensor | np.ndarray):
        values: list[Any] = batches.tolist()
        return values
    if isinstance(batches, dict):
        return [(key, flat(value)) for key, value in sorted(batches.items())]
    if isinstance(batches, list | tuple):
        return [flat(value) for value in batches]
    return [batches]


def loader(dataset: Any, batch_size: int = 4, **options: Any) -> ExtendedDataLoader:
    merged: dict[str, Any] = {"shuffle": True, "kind": "none", **options}
    return ExtendedDataLoader(dataset, batch_size, **merged)


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    yield
    assert multiprocessing.active_children() == []
    assert [each.name for each in threading.enumerate() if each.name.startswith("xtorch-loader")] == []


@pytest.mark.parametrize("dataset", [Seeded(22), Plain(22)], ids=["seeded", "plain"])
def test_batches_are_the_same_for_every_kind_of_workers(dataset: Any) -> None:
    with loader(dataset, seed=3) as reference:
        expected = [flat(list(reference)) for _ in range(2)]
    assert expected[0] != expected[1]
    for kind, workers in KINDS[1:]:
        if isinstance(dataset, Plain) and kind == "threads":
            continue
        with loader(dataset, seed=3, kind=kind, workers=workers) as other:
            assert [flat(list(other)) for _ in range(2)] == expected, (kind, workers)
    with loader(dataset, seed=4) as another:
        assert flat(list(another)) != expected[0]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_epoch_holds_every_sample_once(shuffle: bool, drop_last: bool) -> None:
    batches = list(loader(Seeded(22), shuffle=shuffle, drop_last=drop_last))
    assert len(batches) == len(loader(Seeded(22), drop_last=drop_last)) == (5 if drop_last else 6)
    seen = [int(index) for batch in batches for index in batch["index"]]
    assert len(set(seen)) == len(seen) == (20 if drop_last else 22)
    assert (seen == sorted(seen)) is not shuffle


@settings(max_examples=25, deadline=None)
@given(
    size=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 5),
    share=st.floats(0, 1),
)
def test_resumes_with_exactly_the_batches_that_were_left(
    size: int, batch_size: int, seed: int, epoch: int, share: float
) -> None:
    whole = loader(Seeded(size), batch_size, seed=seed)
    whole.set_epoch(epoch)
    expected = flat(list(whole)) + flat(list(whole))
    interrupted = loader(Seeded(size), batch_size, seed=seed)
    interrupted.set_epoch(epoch)
    position = round(share * len(interrupted))
    states = [interrupted.state_dict()] + [interrupted.state_dict() for _ in interrupted]
    state = json.loads(json.dumps(states[position]))
    resumed = loader(Seeded(size), batch_size, seed=seed)
    resumed.load_state_dict(state)
    rest = flat(list(resumed))
    if position < len(interrupted):
        rest += flat(list(resumed))
    assert rest == expected[position:]


@pytest.mark.parametrize(("kind", "workers"), KINDS)
def test_resumes_after_batches_were_made_ahead(kind: Any, workers: int) -> None:
    with loader(Seeded(40), seed=1, kind=kind, workers=workers, prefetch=3) as first:
        expected = flat(list(first))
        first.set_epoch(0)
        iterator = iter(first)
        for _ in range(4):
            next(iterator)
        state = first.state_dict()
        assert (state["epoch"], state["position"]) == (0, 4)
        del iterator
        # The same loader, whose workers have more under way, and then the epoch after.
        first.load_state_dict(state)
        assert flat(list(first)) == expected[4:]
        assert first.state_dict()["epoch"] == 1
        assert flat(list(first)) != expected


def test_left_epoch_is_over_and_peeking_can_be_undone() -> None:
    with loader(Seeded(12)) as peeked, loader(Seeded(12)) as untouched:
        before = peeked.state_dict()
        next(iter(peeked))
        second = flat(list(peeked))
        peeked.load_state_dict(before)
        assert flat(list(peeked)) == flat(list(untouched))
        assert second == flat(list(untouched))


def test_state_of_another_dataset_or_setting_is_refused() -> None:
    state = loader(Seeded(12)).state_dict()
    with pytest.raises(ForeignCheckpointError, match="num_samples 12 then, 13 now"):
        loader(Seeded(13)).load_state_dict(state)
    with pytest.raises(ForeignCheckpointError, match="seed 0 then, 1 now"):
        loader(Seeded(12), seed=1).load_state_dict(state)
    for wrong in ({}, state | {"version": 2}, state | {"position": 99}, state | {"epoch": "?"}):
        with pytest.raises(ForeignCheckpointError):
            loader(Seeded(12)).load_state_dict(wrong)


def test_loading_leaves_the_generators_of_the_process_alone() -> None:
    def states() -> list[Any]:
        numpy_state: Any = np.random.get_state()
        return flat([list(random.getstate()[1]), numpy_state[1], torch.get_rng_state()])

    torch.manual_seed(0)
    before = states()
    for kind, workers in KINDS:
        if kind != "threads":
            with loader(Plain(8), kind=kind, workers=workers) as each:
                list(each)
        assert states() == before, kind


def test_threads_refuse_a_dataset_that_draws_from_shared_generators() -> None:
    with pytest.raises(SettingsError, match="threads share") as caught:
        list(loader(Plain(8), kind="threads", workers=2))
    assert caught.value.hint is not None
    assert "sample(index, rng)" in caught.value.hint


@pytest.mark.parametrize(("kind", "workers"), KINDS)
def test_failing_sample_is_named(kind: Any, workers: int) -> None:
    with loader(Broken(12), shuffle=False, kind=kind, workers=workers) as broken:
        iterator = iter(broken)
        assert next(iterator)["index"].tolist() == [0, 1, 2, 3]
        with pytest.raises(SampleError, match=r"picture 4.jpg.*cut short") as caught:
            next(iterator)
    assert caught.value.value == 4
    assert caught.value.hint == "send it again"


@pytest.mark.parametrize(("kind", "workers"), KINDS)
def test_failing_samples_are_left_out_and_listed_when_asked(
    kind: Any, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    with loader(
        Broken(11), batch_size=1, shuffle=False, kind=kind, workers=workers, on_error="skip"
    ) as broken:
        seen = [int(batch["index"]) for batch in broken]
    assert seen == [0, 1, 2, 3, 5, 6, 7, 8, 10]
    assert [failure.indices for failure in broken.failures] == [(4,), (9,)]
    assert broken.failures[0].code == "data.invalid"
    assert "picture 9.jpg" in caplog.text
    assert broken.state_dict()["epoch"] == 1


def test_samples_that_do_not_fit_into_one_batch_are_named_even_when_failures_are_skipped() -> None:
    class Ragged(Seeded):
        def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
            return {"x": np.zeros(index)}

    with pytest.raises(SampleError, match=r"Batch 0 \(Sample 0, Sample 1, Sample 2, ...\)") as caught:
        list(loader(Ragged(4), shuffle=False, on_error="skip"))
    assert caught.value.value == (0, 1, 2, 3)


def test_death_of_a_worker_process_is_an_error_of_its_own() -> None:
    with (
        loader(Broken(12, fatal=True), shuffle=False, kind="processes", workers=1) as broken,
        pytest.raises(WorkerError, match="exited unexpectedly") as caught,
    ):
        list(broken)
    assert caught.value.code == "loader.worker"


@pytest.mark.parametrize(("kind", "workers"), [("threads", 2), ("processes", 2)])
def test_workers_end_with_the_iterator_of_a_loop_that_was_left(kind: Any, workers: int) -> None:
    each = loader(Seeded(200), batch_size=2, kind=kind, workers=workers)
    for batch in each:
        assert len(batch["index"]) == 2
        break
    each.close()
    assert multiprocessing.active_children() == []
    assert len(list(each)) == 100  # can be used again
    each.close()


SCRIPT = """
import sys, time
import numpy as np
from xtorch.data.loader import ExtendedDataLoader

class Slow:
    def __len__(self): return 10_000
    def sample(self, index, rng):
        time.sleep(0.01)
        return index

loader = ExtendedDataLoader(Slow(), 4, kind=sys.argv[1], workers=2)
for number, batch in enumerate(loader):
    if number == 1:
        import multiprocessing
        print(*[child.pid for child in multiprocessing.active_children()], flush=True)
"""


@pytest.mark.faults
@pytest.mark.parametrize(
    ("kind", "number"),
    [("processes", signal.SIGINT), ("processes", signal.SIGKILL), ("threads", signal.SIGINT)],
)
def test_no_process_outlives_an_interrupt_or_a_kill(kind: str, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, kind], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == (2 if kind == "processes" else 0)
    process.send_signal(number)
    process.communicate(timeout=120)
    assert process.returncode != 0
    for pid in workers:
        # Workers of a killed process notice within torch's interval of 5 s.
        assert _ended(pid, within_s=60), pid


def _ended(pid: int, within_s: float) -> bool:
    waiting = threading.Event()
    for _ in range(int(within_s * 10)):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":  # ended; whoever inherited it has not asked yet
            return True
        waiting.wait(0.1)
    return False


def test_choice_is_measured_and_said() -> None:
    with loader(Seeded(64), kind="auto", measure_s=0.2) as each:
        choice = each.choice
        assert choice.rates
        assert all(rate > 0 for rate in choice.rates.values())
        assert label(choice.kind, choice.num_workers) in choice.rates
        assert label(choice.kind, choice.num_workers) in str(choice)
        expected = flat(list(loader(Seeded(64))))
        assert flat(list(each)) == expected  # measuring uses up nothing
    assert each.choice is choice


def test_choice_excludes_what_cannot_work() -> None:
    with loader(Plain(16), kind="auto", measure_s=0.1) as each:
        assert each.choice.kind != "threads"
        assert any("threads" in name for name in each.choice.excluded)
    assert loader(Seeded(4), kind="threads", workers=2).choice.reason == "as asked"
    assert loader(Seeded(4), kind="auto", workers=0).choice.kind == "none"
    with pytest.raises(SettingsError, match="threads"):
        _ = loader(Plain(4), kind="threads").choice


def test_choice_takes_the_faster_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    from xtorch.data.loading import choose

    speeds = {
        "none": 10.0,
        "threads x 1": 18.0,
        "threads x 2": 19.0,
        "processes x 1": 11,
        "processes x 2": 15,
    }

    def pick(rates: dict[str, float]) -> str:
        monkeypatch.setattr(choose, "_rates", lambda *a: (rates, {}))
        monkeypatch.setattr(choose, "num_cores", lambda: 2)
        choice = loader(Seeded(8), kind="auto").choice
        return label(choice.kind, choice.num_workers)

    assert pick(speeds) == "threads x 1"  # within 10 % of the fastest, with fewer
    assert pick(speeds | {"processes x 2": 40.0}) == "processes x 2"
    assert pick(speeds | {"none": 50.0}) == "none"
    assert pick(speeds | {"none": 18.9}) == "threads x 1"  # a hand-over that costs nothing is worth having


def test_batch_transform_draws_the_same_for_every_kind() -> None:
    def mixed(batch: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        return batch | {"drawn": float(rng.random())}

    results = []
    for kind, workers in KINDS:
        with loader(Seeded(20), kind=kind, workers=workers, batch_transform=mixed) as each:
            results.append(flat(list(each)))
    assert all(result == results[0] for result in results)
    assert len({str(batch[0]) for batch in results[0]}) == 5


@pytest.mark.parametrize("drop_last", [False, True])
def test_shards_share_an_epoch_out(drop_last: bool) -> None:
    parts = [list(loader(Seeded(23), 2, shard=(rank, 3), drop_last=drop_last)) for rank in range(3)]
    assert len({len(part) for part in parts}) == 1
    seen = [int(index) for part in parts for batch in part for index in batch["index"]]
    if drop_last:
        assert len(seen) == len(set(seen)) == 18
    else:
        assert set(seen) == set(range(23))
        assert len(seen) == 24


def test_moves_batches_to_the_device() -> None:
    for batch in loader(Seeded(6), device="meta"):
        assert batch["image"].device.type == "meta"
        assert batch["index"].device.type == "meta"


def test_collate_stacks_as_torch_does_and_knows_image_samples() -> None:
    rng = np.random.default_rng(0)
    samples = [
        {
            "a": rng.random((2, 3)),
            "b": torch.full((2,), i, dtype=torch.bfloat16),
            "c": i,
            "d": str(i),
            "e": (i, 1.5),
        }
        for i in range(3)
    ]
    ours, theirs = collate(samples), torch.utils.data.default_collate(samples)
    assert flat(ours) == flat(theirs)
    assert ours["b"].dtype == torch.bfloat16
    images = [
        ImageSample(
            image_HWC=np.full((4, 6, 3), i, np.uint8),
            boxes_N4=np.zeros((i, 4)),
            labels_N=np.zeros(i),
            mask_HW=np.zeros((4, 6), np.uint8),
            target=i,
        )
        for i in range(2)
    ]
    batch = collate(images)
    assert batch["image_NHWC"].shape == (2, 4, 6, 3)
    assert batch["image_NHWC"].permute(0, 3, 1, 2).is_contiguous(memory_format=torch.channels_last)
    assert [boxes.shape for boxes in batch["boxes"]] == [(0, 4), (1, 4)]
    assert batch["mask_NHW"].dtype == torch.uint8
    assert batch["target"].tolist() == [0, 1]
    assert "keypoints" not in batch


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"seed": -1},
        {"prefetch": 0},
        {"workers": -1},
        {"kind": "fibres"},
        {"on_error": "ignore"},
        {"shard": (2, 2)},
        {"cache": object()},
    ],
)
def test_wrong_settings_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        loader(Seeded(4), **options)


def test_wrong_datasets_are_refused() -> None:
    with pytest.raises(SettingsError, match="__len__"):
        loader(iter([1, 2]))
    with pytest.raises(DataError, match="no batches"):
        loader(Seeded(0))
    with pytest.raises(DataError, match="no batches"):
        loader(Seeded(3), batch_size=4, drop_last=True)
