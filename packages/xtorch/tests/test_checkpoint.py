from __future__ import annotations

import json
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from xtorch import (
    Callback,
    CheckpointError,
    Checkpointing,
    ForeignCheckpointError,
    SettingsError,
    Trainer,
    TrainerConfig,
)
from xtorch.callbacks import TrainState
from xtorch.checkpoint import checkpoints, newest_checkpoint, read_checkpoint, write_checkpoint

SCRIPT = Path(__file__).with_name("train_and_die.py")


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


@pytest.fixture(scope="module")
def uninterrupted(script: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, str]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    weights, history, _ = script["train"](folder, resume=False, callbacks=[script["Die"](-1)])
    return weights, history, (folder / "log.jsonl").read_text()


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class InterruptError(Exception):
    pass


class Interrupt(Callback):
    """Ends training the hard way after a step; -1 never."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_batch_end(self, state: TrainState) -> None:
        if state.step == self.step:
            raise InterruptError


Interrupt.__name__ = "Die"


@pytest.mark.faults
@pytest.mark.slow
def test_killed_training_ends_like_an_uninterrupted_one_to_the_bit(
    script: dict[str, Any], uninterrupted: tuple[Any, Any, str], tmp_path: Path
) -> None:
    for how in ("step:8", "write:3"):  # within the second epoch; within the writing, later on
        ended = subprocess.run(
            [sys.executable, str(SCRIPT), str(tmp_path), how], capture_output=True, text=True, check=False
        )
        assert ended.returncode == -signal.SIGKILL, ended.stderr
    left = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert any(name.endswith(".unfinished") for name in left)
    assert "step-0000000009" in left  # 7 was the last before the first kill, 10 was being written
    weights, history, _ = script["train"](tmp_path, resume=True, callbacks=[script["Die"](-1)])
    assert same(weights, uninterrupted[0])
    assert history == uninterrupted[1]
    assert (tmp_path / "log.jsonl").read_text() == uninterrupted[2]
    assert not list((tmp_path / "checkpoints").glob("*.unfinished"))


@pytest.mark.parametrize("step", [1, 5, 7, 10, 19])
@pytest.mark.parametrize("stateful", [False, True])
def test_resume_is_exact_wherever_training_was_interrupted(
    script: dict[str, Any], uninterrupted: tuple[Any, Any, str], tmp_path: Path, step: int, stateful: bool
) -> None:
    with pytest.raises(InterruptError):
        script["train"](tmp_path, resume=True, stateful=stateful, callbacks=[Interrupt(step)])
    weights, history, points = script["train"](
        tmp_path, resume=True, stateful=stateful, callbacks=[Interrupt(-1)]
    )
    assert same(weights, uninterrupted[0])
    assert history == uninterrupted[1]
    # Of 40 batches, those of the steps before are not read again where the source can go on.
    done = 2 * (step - 1)
    assert points.read == 40 - (done if stateful else done // 10 * 10)


@pytest.mark.parametrize("stateful", [False, True])
def test_resume_is_exact_between_an_epochs_last_batch_and_its_validation(
    script: dict[str, Any],
    uninterrupted: tuple[Any, Any, str],
    tmp_path: Path,
    stateful: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names, seen = script["train"].__globals__, [0]
    real = names["_auroc"]

    def second_time(model: nn.Module, points: Any) -> float:
        seen[0] += 1
        if seen[0] == 2:
            raise InterruptError
        return float(real(model, points))

    monkeypatch.setitem(names, "_auroc", second_time)
    with pytest.raises(InterruptError):
        script["train"](tmp_path, resume=True, stateful=stateful, callbacks=[Interrupt(-1)])
    weights, history, points = script["train"](
        tmp_path, resume=True, stateful=stateful, callbacks=[Interrupt(-1)]
    )
    assert points.read == 20
    assert same(weights, uninterrupted[0])
    assert history == uninterrupted[1]


@pytest.mark.parametrize("step", [3, 4, 6])
def test_xtorchs_loader_resumes_within_an_epoch(tmp_path: Path, step: int) -> None:
    from xtorch.data.loader import ExtendedDataLoader

    data = [torch.randn(2, generator=torch.Generator().manual_seed(number)) for number in range(16)]
    read: list[int] = []

    class Dataset:
        def __len__(self) -> int:
            return len(data)

        def __getitem__(self, index: int) -> Tensor:
            read.append(index)
            return data[index]

    def fit(folder: Path, interrupt: int, *, resume: bool = False) -> dict[str, Tensor]:
        torch.manual_seed(0)
        model = nn.Linear(2, 2)
        with ExtendedDataLoader(Dataset(), 4, shuffle=True, seed=3, workers=0) as loader:
            Trainer(
                TrainerConfig(max_epochs=3), [Interrupt(interrupt), Checkpointing(folder, every_s=0)]
            ).fit(model, loader, loss=squared, resume=folder if resume else None)
        return model.state_dict()

    expected = fit(tmp_path / "whole", -1)
    with pytest.raises(InterruptError):
        fit(tmp_path / "cut", step)
    read.clear()
    assert same(fit(tmp_path / "cut", -1, resume=True), expected)
    assert len(read) == 4 * (12 - (step - 1))


def test_finished_training_is_not_trained_again(
    script: dict[str, Any], uninterrupted: tuple[Any, Any, str], tmp_path: Path
) -> None:
    script["train"](tmp_path, resume=False, callbacks=[Interrupt(-1)])
    weights, history, points = script["train"](tmp_path, resume=True, callbacks=[Interrupt(-1)])
    assert points.read == 0
    assert same(weights, uninterrupted[0])
    assert history == uninterrupted[1]


def squared(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).square().mean()


def batches(generator: torch.Generator) -> Iterator[Tensor]:
    for _ in range(3):
        yield torch.randn(4, 2, generator=generator)


def fit(folder: Path, *, resume: bool = False, width: int = 2, **config: Any) -> Any:
    torch.manual_seed(0)
    model = nn.Linear(2, width)
    settings = TrainerConfig(**{"max_epochs": 4, **config})
    result = Trainer(settings, [Checkpointing(folder, keep=2)]).fit(
        model, batches, loss=squared, resume=folder if resume else None
    )
    return model.state_dict(), result


def test_newest_checkpoints_are_kept_and_the_folder_is_not_mixed_up(tmp_path: Path) -> None:
    fit(tmp_path / "a")
    assert [path.name for path in checkpoints(tmp_path / "a")] == ["step-0000000009", "step-0000000012"]
    with pytest.raises(SettingsError, match="earlier training"):
        fit(tmp_path / "a")
    assert len(checkpoints(tmp_path / "a")) == 2


@pytest.mark.parametrize("damage", ["tensors", "cut", "json", "lost", "stranger"])
def test_the_checkpoint_before_is_used_when_the_newest_is_damaged(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected, whole = fit(tmp_path)
    newest = checkpoints(tmp_path)[-1]
    tensors, state = newest / "tensors.safetensors", newest / "state.json"
    if damage == "tensors":
        content = bytearray(tensors.read_bytes())
        content[-1] ^= 1
        tensors.write_bytes(content)
    elif damage == "cut":
        tensors.write_bytes(tensors.read_bytes()[:100])
    elif damage == "json":
        state.write_text(state.read_text()[:-20])
    elif damage == "lost":
        tensors.unlink()
    else:
        state.write_text('{"format": "something else"}')
    weights, result = fit(tmp_path, resume=True)
    assert "step-0000000012 is passed over" in caplog.text
    assert same(weights, expected)
    assert result.history == whole.history
    assert read_checkpoint(checkpoints(tmp_path)[-1])["step"] == 12


def test_refuses_when_no_checkpoint_can_be_read(tmp_path: Path) -> None:
    fit(tmp_path)
    for path in checkpoints(tmp_path):
        (path / "state.json").write_text("{}")
    with pytest.raises(CheckpointError) as caught:
        fit(tmp_path, resume=True)
    assert caught.value.code == "checkpoint.invalid"
    assert caught.value.hint is not None


def test_no_checkpoint_at_all_starts_from_the_beginning(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "nowhere") is None
    weights, result = fit(tmp_path / "new", resume=True)
    assert result.epochs == 4
    assert same(weights, fit(tmp_path / "other")[0])


def test_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    fit(tmp_path)
    with pytest.raises(ForeignCheckpointError, match="learning_rate") as caught:
        fit(tmp_path, resume=True, learning_rate=0.5)
    assert caught.value.code == "checkpoint.foreign"
    with pytest.raises(ForeignCheckpointError, match="another model"):
        fit(tmp_path, resume=True, width=3)
    torch.manual_seed(0)
    with pytest.raises(ForeignCheckpointError, match="callbacks"):
        Trainer(TrainerConfig(max_epochs=4)).fit(nn.Linear(2, 2), batches, loss=squared, resume=tmp_path)
    write_checkpoint(tmp_path, 99, {"settings": {}})
    with pytest.raises(ForeignCheckpointError):
        fit(tmp_path, resume=True)


def test_training_can_be_made_longer(tmp_path: Path) -> None:
    fit(tmp_path)
    _, result = fit(tmp_path, resume=True, max_epochs=6)
    assert (result.epochs, result.steps) == (6, 18)


def test_every_kind_of_value_comes_back(tmp_path: Path) -> None:
    image = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    snapshot: dict[str, Any] = {
        "scalar": torch.tensor(3),
        "image": image,
        "shared": [image, image],
        "bits": torch.tensor([True, False]),
        "half": torch.tensor([1.5], dtype=torch.bfloat16),
        "array": np.random.default_rng(0).integers(0, 2**32, 5, dtype=np.uint32),
        "tuple": (1, (2.5, None), "text"),
        "by number": {0: {"a": 1}, 7: torch.zeros(0)},
        "odd numbers": [float("inf"), 0.1 + 0.2, 2**70],
        "nothing": {},
    }
    path = write_checkpoint(tmp_path, 3, snapshot)
    back = read_checkpoint(path)
    assert back.keys() == snapshot.keys()
    assert back["image"].stride() == image.stride()
    for name in ("scalar", "image", "bits", "half"):
        assert torch.equal(back[name], snapshot[name])
        assert back[name].dtype == snapshot[name].dtype
    assert torch.equal(back["shared"][1], image)
    assert back["array"].dtype == np.uint32
    assert (back["array"] == snapshot["array"]).all()
    assert back["tuple"] == snapshot["tuple"]
    assert back["by number"][0] == {"a": 1}
    assert back["by number"][7].shape == (0,)
    assert back["odd numbers"] == snapshot["odd numbers"]
    assert back["nothing"] == {}
    json.loads((path / "state.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_what_cannot_be_saved_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="set"):
        write_checkpoint(tmp_path, 1, {"a": {"b": {1, 2}}})
    assert checkpoints(tmp_path) == []


def test_refuses_when_a_file_stands_where_the_folder_should(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="could not be written"):
        write_checkpoint(tmp_path / "file", 1, {})


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        Checkpointing(tmp_path, keep=0)
    with pytest.raises(SettingsError):
        Checkpointing(tmp_path, every_epochs=0)
