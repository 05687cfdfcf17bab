"""The contract of leases, on every database: one worker at a time, and nobody else's word counts."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ignition_client import wire
from ignition_hub.accounts import service as accounts
from ignition_hub.auth.actor import Actor, system
from ignition_hub.db import Database
from ignition_hub.errors import BadRequestError, ConflictError, HubError, NotFoundError, StaleLeaseError
from ignition_hub.jobs import reading, reports
from ignition_hub.jobs.models import JobRow
from ignition_hub.jobs.service import Jobs, JobState

AGENT = Actor(kind="agent", name="agent")
CHECK = {
    "item": "images",
    "layout": "ok_defective",
    "num_files": 0,
    "num_items": 0,
    "size_bytes": 0,
    "classes": [],
    "findings": [],
    "duration_s": 0,
}


class Board:
    """Jobs of one organisation, with the agent's calls as short methods."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.jobs = Jobs(lease_s=60, max_attempts=3)
        self.ended: list[JobState] = []
        self.jobs.on_end = lambda _session, job: self.ended.append(job)
        with db.write() as session:
            self.owner = accounts.bootstrap(session)

    def submit(self, job_id: str = "job", **options: Any) -> None:
        with self.db.write() as session:
            self.jobs.submit(
                session,
                job_id=job_id,
                organisation_id=self.owner.organisation_id,
                kind=options.pop("kind", wire.JobKind.CHECK),
                spec={},
                inputs=[],
                **options,
            )

    def claim(self, target: str = "cpu", kinds: list[str] | None = None) -> wire.Lease | None:
        request = wire.LeaseRequest(
            agent="a", target=target, kinds=kinds or ["check", "train", "build"], public_key_pem="k"
        )
        with self.db.write() as session:
            return self.jobs.claim(session, AGENT, request)

    def must_claim(self) -> wire.Lease:
        lease = self.claim()
        assert lease is not None
        return lease

    def actor(self, lease: wire.Lease) -> Actor:
        with self.db.read() as session:
            actor = self.jobs.authenticate(session, lease.token)
        assert actor is not None
        return actor

    def complete(self, lease: wire.Lease, status: str = "succeeded", **extra: Any) -> wire.JobStatus:
        body = wire.JobCompletion(epoch=lease.epoch, status=status, result=CHECK, **extra)
        with self.db.write() as session:
            return self.jobs.complete(session, self.actor(lease), lease.job_id, body)

    def heartbeat(self, lease: wire.Lease) -> wire.HeartbeatAnswer:
        with self.db.write() as session:
            return self.jobs.heartbeat(session, self.actor(lease), lease.job_id, lease.epoch)

    def release(self, lease: wire.Lease) -> None:
        with self.db.write() as session:
            self.jobs.release(session, self.actor(lease), lease.job_id, lease.epoch)

    def expire(self) -> int:
        """The lease's time passes."""
        with self.db.write() as session:
            for row in session.query(JobRow).filter(JobRow.status == "leased"):
                row.lease_expires_at = datetime.now(UTC) - timedelta(seconds=1)
        with self.db.write() as session:
            return self.jobs.requeue_expired(session)

    def state(self, job_id: str = "job") -> wire.Job:
        with self.db.read() as session:
            return reading.show(session, system(self.owner.organisation_id), job_id)


@pytest.fixture
def board(database: Database) -> Board:
    return Board(database)


def test_claim_gives_a_job_once_and_raises_its_epoch(board: Board) -> None:
    board.submit()
    lease = board.must_claim()
    assert (lease.epoch, lease.attempt) == (1, 1)
    assert board.claim() is None
    assert board.state().status is wire.JobStatus.LEASED


def test_submit_changes_nothing_when_the_job_is_there(board: Board) -> None:
    board.submit()
    board.complete(board.must_claim())
    board.submit()
    assert board.claim() is None
    assert board.state().status is wire.JobStatus.SUCCEEDED


def test_submit_again_queues_anew_only_when_the_job_failed(board: Board) -> None:
    board.submit()
    board.complete(board.must_claim(), "failed", error=wire.JobError(code="x", message="y"))
    board.submit(again=True)
    lease = board.must_claim()
    assert lease.epoch == 2
    assert lease.attempt == 1
    board.complete(lease)
    board.submit(again=True)
    assert board.claim() is None


def test_claim_passes_over_jobs_of_other_targets_and_kinds(board: Board) -> None:
    board.submit("on-gpu", target="cuda", kind=wire.JobKind.BUILD)
    assert board.claim("cpu") is None
    assert board.claim("cuda", ["train"]) is None
    lease = board.claim("cuda")
    assert lease is not None
    assert lease.job_id == "on-gpu"


def test_concurrent_claims_give_every_job_to_exactly_one(board: Board) -> None:
    num_jobs, num_agents = 24, 6
    for i in range(num_jobs):
        board.submit(f"job-{i}")
    start = threading.Barrier(num_agents)

    def agent(_: int) -> list[str]:
        start.wait()
        got = []
        # On PostgreSQL a claim may find every queued row locked by the others: look again.
        while any(board.state(f"job-{i}").status is wire.JobStatus.QUEUED for i in range(num_jobs)):
            lease = board.claim()
            if lease is not None:
                got.append(lease.job_id)
        return got

    with ThreadPoolExecutor(num_agents) as pool:
        claimed = [job_id for ids in pool.map(agent, range(num_agents)) for job_id in ids]
    assert sorted(claimed) == sorted(f"job-{i}" for i in range(num_jobs))


def test_stale_epoch_is_refused_everywhere_when_another_agent_has_the_job(board: Board) -> None:
    board.submit()
    old = board.must_claim()
    assert board.expire() == 1
    new = board.must_claim()
    assert new.epoch == old.epoch + 1
    actor = board.actor(old)
    log = wire.LogChunk(epoch=old.epoch, offset=0, text="late")
    batch = wire.EventBatch(epoch=old.epoch, events=[])
    with pytest.raises(StaleLeaseError):
        board.heartbeat(old)
    with pytest.raises(StaleLeaseError):
        board.complete(old)
    with pytest.raises(StaleLeaseError):
        board.release(old)
    with pytest.raises(StaleLeaseError), board.db.write() as session:
        reports.append_log(session, actor, board.jobs, "job", log)
    with pytest.raises(StaleLeaseError), board.db.write() as session:
        reports.add_events(session, actor, board.jobs, "job", batch)
    with pytest.raises(StaleLeaseError):  # the new epoch under the old token
        board.complete(old.model_copy(update={"epoch": new.epoch}))
    assert board.complete(new) is wire.JobStatus.SUCCEEDED
    assert len(board.ended) == 1


def test_token_of_another_job_is_refused(board: Board) -> None:
    board.submit("one")
    board.submit("two")
    one, two = board.must_claim(), board.must_claim()
    with pytest.raises(NotFoundError):
        board.complete(two.model_copy(update={"token": one.token}))


def test_complete_again_changes_nothing(board: Board) -> None:
    board.submit()
    lease = board.must_claim()
    board.complete(lease)
    assert board.complete(lease, "failed") is wire.JobStatus.SUCCEEDED
    assert len(board.ended) == 1


def test_heartbeat_extends_the_lease(board: Board) -> None:
    board.submit()
    lease = board.must_claim()
    assert board.heartbeat(lease).expires_at >= lease.expires_at
    with board.db.read() as session:
        assert board.jobs.expired(session) == []


def test_job_fails_with_a_typed_reason_when_its_attempts_are_used_up(board: Board) -> None:
    board.submit()
    for attempt in (1, 2, 3):
        assert board.must_claim().attempt == attempt
        board.expire()
    job = board.state()
    assert job.status is wire.JobStatus.FAILED
    assert job.error is not None
    assert (job.error.code, bool(job.error.hint)) == ("job.attempts_exhausted", True)
    assert board.claim() is None
    assert len(board.ended) == 1


def test_retryable_failure_uses_another_attempt_and_a_final_one_does_not(board: Board) -> None:
    board.submit()
    error = wire.JobError(code="job.killed", message="killed")
    assert board.complete(board.must_claim(), "failed", error=error, retryable=True) is wire.JobStatus.QUEUED
    assert board.complete(board.must_claim(), "failed", error=error) is wire.JobStatus.FAILED
    assert board.state().error == error


def test_release_does_not_count_as_an_attempt(board: Board) -> None:
    board.submit()
    for _ in range(5):
        lease = board.must_claim()
        assert lease.attempt == 1
        board.release(lease)


def test_cancel_ends_a_queued_job_now_and_a_leased_one_through_its_agent(board: Board) -> None:
    user = board.owner
    board.submit("queued")
    with board.db.write() as session:
        board.jobs.cancel(session, user, "queued")
    assert board.state("queued").status is wire.JobStatus.CANCELLED
    board.submit("leased")
    lease = board.must_claim()
    with board.db.write() as session:
        board.jobs.cancel(session, user, "leased")
    assert board.heartbeat(lease).cancel is True
    assert board.complete(lease, "failed", retryable=True) is wire.JobStatus.CANCELLED
    with pytest.raises(ConflictError), board.db.write() as session:
        board.jobs.cancel(session, user, "leased")


def test_cancelled_job_of_a_dead_agent_ends_when_its_lease_does(board: Board) -> None:
    board.submit()
    board.must_claim()
    with board.db.write() as session:
        board.jobs.cancel(session, board.owner, "job")
    board.expire()
    assert board.state().status is wire.JobStatus.CANCELLED


def test_completion_and_message_are_one_commit_when_telling_fails(board: Board) -> None:
    board.submit()
    lease = board.must_claim()

    def fail(*_: object) -> None:
        raise ConflictError("cannot tell")

    board.jobs.on_end = fail
    with pytest.raises(ConflictError):
        board.complete(lease)
    assert board.state().status is wire.JobStatus.LEASED


def test_result_of_the_wrong_shape_is_refused(board: Board) -> None:
    board.submit()
    lease = board.must_claim()
    body = wire.JobCompletion(epoch=lease.epoch, status="succeeded", result={"layout": 3})
    with pytest.raises(BadRequestError), board.db.write() as session:
        board.jobs.complete(session, board.actor(lease), "job", body)
    assert board.state().status is wire.JobStatus.LEASED


def test_output_that_was_not_uploaded_is_refused(board: Board) -> None:
    board.submit()
    lease = board.must_claim()
    output = wire.FileEntry(path="a", digest="sha256:" + "0" * 64, size_bytes=1)
    with pytest.raises(BadRequestError):
        board.complete(lease, outputs=[output])


def test_log_is_kept_once_when_chunks_repeat_overlap_and_attempts_follow(board: Board) -> None:
    board.submit()
    lease = board.must_claim()

    def write(lease: wire.Lease, offset: int, text: str) -> None:
        with board.db.write() as session:
            chunk = wire.LogChunk(epoch=lease.epoch, offset=offset, text=text)
            reports.append_log(session, board.actor(lease), board.jobs, "job", chunk)

    write(lease, 0, "größe\n")
    write(lease, 0, "größe\n")
    write(lease, 0, "größe\nmehr\n")
    with pytest.raises(BadRequestError):
        write(lease, 100, "gap")
    with pytest.raises(BadRequestError):
        write(lease, 10**30, "gap")
    board.expire()
    again = board.must_claim()
    write(again, 0, "zwei\0\n")
    board.complete(again)
    actor = system(board.owner.organisation_id)
    with board.db.read() as session:
        tail = reading.log(session, actor, "job", 0)
        assert (tail.text, tail.final) == ("größe\nmehr\nzwei \n", True)
        rest = reading.log(session, actor, "job", len("größe\n".encode()))
        assert rest.text == "mehr\nzwei \n"
        assert reading.log(session, actor, "job", tail.next_offset).text == ""


def test_events_are_kept_once_by_number(board: Board) -> None:
    board.submit()
    lease = board.must_claim()
    events = [wire.JobEvent(seq=i, at=datetime.now(UTC), stage=f"s{i}") for i in (0, 1, 1, 2)]
    for part in (events[:2], events):
        with board.db.write() as session:
            batch = wire.EventBatch(epoch=lease.epoch, events=part)
            reports.add_events(session, board.actor(lease), board.jobs, "job", batch)
    with board.db.read() as session:
        found = reading.events(session, system(board.owner.organisation_id), "job")
    assert [event.seq for event in found] == [0, 1, 2]
    last = board.state().last_event
    assert last is not None
    assert last.stage == "s2"


ACTIONS = st.sampled_from(["claim", "expire", "heartbeat", "complete", "fail", "retry", "release"])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=st.lists(st.tuples(ACTIONS, st.integers(0, 5)), max_size=14))
def test_any_order_of_calls_keeps_the_rules_of_leases(
    tmp_path_factory: pytest.TempPathFactory, plan: list[tuple[str, int]]
) -> None:
    """Whoever says whatever under whichever lease: only the newest lease of a leased job counts."""
    path: Path = tmp_path_factory.mktemp("leases") / "hub.sqlite3"
    db = Database(f"sqlite:///{path}")
    db.migrate()
    board = Board(db)
    board.submit()
    leases: list[wire.Lease] = []
    for action, which in plan:
        before = board.state()
        if action == "claim":
            lease = board.claim()
            assert (lease is not None) == (before.status is wire.JobStatus.QUEUED)
            if lease is not None:
                assert lease.epoch == before.epoch + 1
                leases.append(lease)
            continue
        if action == "expire":
            assert board.expire() == (before.status is wire.JobStatus.LEASED)
            continue
        if not leases:
            continue
        lease = leases[which % len(leases)]
        may = before.status is wire.JobStatus.LEASED and lease.epoch == before.epoch
        call = {
            "heartbeat": lambda lease=lease: board.heartbeat(lease),
            "complete": lambda lease=lease: board.complete(lease),
            "fail": lambda lease=lease: board.complete(lease, "failed"),
            "retry": lambda lease=lease: board.complete(lease, "failed", retryable=True),
            "release": lambda lease=lease: board.release(lease),
        }[action]
        repeated = before.status.final and lease.epoch == before.epoch
        if may or (repeated and action in ("complete", "fail", "retry")):
            call()
        else:
            with pytest.raises(HubError):
                call()
            assert board.state() == before
        assert board.state().attempt <= 3
    assert len(board.ended) == board.state().status.final
    db.close()
