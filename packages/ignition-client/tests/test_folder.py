from __future__ import annotations

import json
from pathlib import Path

import pytest

from ignition_client.agent.folder import EventTailer, JobFolder, LogTailer
from ignition_client.errors import InputError
from ignition_client.jobs.events import EventWriter
from ignition_client.wire import Lease


def lease() -> Lease:
    return Lease.model_validate(
        {
            "job_id": "j", "kind": "check", "epoch": 2, "attempt": 1, "token": "t", "lease_s": 1,
            "expires_at": "2030-01-01T00:00:00Z", "spec": {"dataset": "d", "version": 1}, "inputs": [],
        }
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    return JobFolder.create(tmp_path, lease(), cache_dir=tmp_path / "c", signing_key=tmp_path / "k")


def test_create_writes_the_contract(folder: JobFolder) -> None:
    job = json.loads((folder.path / "job.json").read_text())
    assert folder.path.name == "j-2"
    assert set(job) == {"kind", "job_id", "epoch", "spec", "cache_dir", "signing_key"}
    assert folder.inputs.is_dir()
    assert folder.outputs.is_dir()


def test_log_is_cut_between_characters(folder: JobFolder) -> None:
    tail = LogTailer(folder.log, max_bytes=1000)
    data = "größer".encode()
    folder.log.write_bytes(data[:3])  # in the middle of ö
    assert tail.peek() == "gr"
    tail.advance()
    folder.log.write_bytes(data)
    assert tail.peek() == "ößer"
    assert tail.peek() == "ößer", "the same again until it was delivered"
    tail.advance()
    assert tail.offset == len(data)
    assert tail.peek(final=True) == ""


def test_log_offsets_count_the_text_when_bytes_are_not_utf8(folder: JobFolder) -> None:
    tail = LogTailer(folder.log, max_bytes=1000)
    folder.log.write_bytes(b"a\xffb")
    assert tail.peek() == "a\ufffdb"
    tail.advance()
    assert tail.offset == 5


def test_log_stops_at_its_limit(folder: JobFolder) -> None:
    tail = LogTailer(folder.log, max_bytes=10)
    folder.log.write_bytes(b"x" * 11)
    assert "longer than" in tail.peek()
    tail.advance()
    folder.log.write_bytes(b"x" * 30)
    assert tail.peek() == ""


def test_events_count_once_their_line_is_complete(folder: JobFolder) -> None:
    writer = EventWriter(folder.events)
    writer("One", 0.1)
    writer("Two", 2.0, metrics={"loss": 1.0, "bad": float("nan")})
    writer.close()
    content = folder.events.read_bytes()
    tail = EventTailer(folder.events)
    folder.events.write_bytes(content[:-5])
    assert [event.stage for event in tail.peek()] == ["One"]
    folder.events.write_bytes(content + b"not json\n")
    events = tail.peek()
    assert [(event.seq, event.stage, event.progress) for event in events] == [
        (0, "One", 0.1),
        (1, "Two", 1.0),
    ]
    assert events[1].metrics == {"loss": 1.0}
    tail.advance(2)
    assert tail.peek() == []


def test_event_writer_drops_what_comes_too_often(folder: JobFolder) -> None:
    writer = EventWriter(folder.events)
    for index in range(100):
        writer("Loop", index / 100)
    writer("Loop", 1.0)
    writer.close()
    events = EventTailer(folder.events).peek()
    assert len(events) < 100
    assert events[-1].progress == 1.0


@pytest.mark.parametrize("text", ["", "{}", '{"status": "odd"}', "[" * 10_000])
def test_result_that_cannot_be_read_is_a_typed_error(folder: JobFolder, text: str) -> None:
    (folder.path / "result.json").write_text(text)
    with pytest.raises(InputError) as caught:
        folder.result()
    assert caught.value.code == "job.bad_result"


def test_no_result_is_none(folder: JobFolder) -> None:
    assert folder.result() is None


def test_outputs_must_be_regular_files(folder: JobFolder) -> None:
    (folder.outputs / "a").mkdir()
    (folder.outputs / "a" / "b.txt").write_text("b")
    assert [entry.path for entry in folder.output_files()] == ["a/b.txt"]
    (folder.outputs / "link").symlink_to("/etc/passwd")
    with pytest.raises(InputError) as caught:
        folder.output_files()
    assert caught.value.code == "job.bad_output"
