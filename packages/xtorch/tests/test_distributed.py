"""Two processes over gloo against one."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from xtorch import ForeignCheckpointError, SettingsError, TrainerConfig, distributed

SCRIPT = Path(__file__).with_name("train_in_processes.py")


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes left their results."""
    folder = tmp_path_factory.mktemp("two")
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *(str(SCRIPT), str(folder)),
        ],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )
    assert ended.returncode == 0, ended.stderr[-5000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_do_what_one_does_with_twice_the_batch(
    two: Path, script: dict[str, Any], parallel: str
) -> None:
    model, result = script["train"](script["paired"], accumulate=2)
    found = json.loads((two / "found.json").read_text())[parallel]
    assert found["steps"] == result.steps == 12
    for here, there in zip(result.history, found["history"], strict=True):
        assert here.keys() == there.keys() >= {"loss", "accuracy", "validation_loss", "validation_accuracy"}
        for name in here:
            assert here[name] == pytest.approx(there[name], rel=1e-4)
    weights = load_file(two / f"{parallel}.safetensors")
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_resume_exactly(two: Path, parallel: str) -> None:
    found = json.loads((two / "found.json").read_text())[parallel]
    assert found["interrupted"]
    assert found["resumed weights are equal"]
    assert found["resumed history is equal"]


@pytest.mark.slow
def test_fsdp_leaves_each_process_half_of_every_parameter(two: Path) -> None:
    found = json.loads((two / "found.json").read_text())
    assert found["local shapes"] == [[4, 6], [4], [1, 8], [1]]


@pytest.mark.slow
def test_when_one_process_stops_all_do_and_say_why(two: Path) -> None:
    found = json.loads((two / "found.json").read_text())
    assert found["stopped"] == [2, "the second process had enough"]


@pytest.mark.slow
def test_one_process_refuses_the_checkpoint_of_two(two: Path, script: dict[str, Any]) -> None:
    folder = two / "ddp-whole"
    with pytest.raises(ForeignCheckpointError, match="made by 2 processes"):
        script["train"](script["batches"], callbacks=script["everything"](folder), resume=folder)


def test_shards_are_disjoint_and_of_equal_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    for drop_last, expected in ((True, [[0, 3], [1, 4], [2, 5]]), (False, [[0, 3, 6], [1, 4, 7], [2, 5]])):
        for mine in range(3):
            monkeypatch.setattr(distributed, "rank", lambda mine=mine: mine)
            part = distributed.shard(range(8), drop_last=drop_last)
            assert list(part) == expected[mine]
            assert len(part) == len(expected[mine])
    made = distributed.shard(lambda generator: iter(range(8)))
    assert list(made(torch.Generator())) == [2, 5]


def test_one_process_is_as_if_nothing_were_there() -> None:
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    assert list(distributed.shard([1, 2, 3])) == [1, 2, 3]
    assert distributed.gather("a") == ["a"]
    assert distributed.mean(2.0) == 2.0
    model = torch.nn.Linear(2, 2)
    assert distributed.wrap(model, "fsdp", torch.device("cpu")) is model


def test_unknown_parallelism_is_refused() -> None:
    with pytest.raises(SettingsError):
        TrainerConfig(parallel="horovod")
