"""Counters per endpoint, written in Prometheus' text format. Touched by the event loop's thread only."""

from __future__ import annotations

import bisect
import time
from collections import Counter
from dataclasses import dataclass, field

LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass
class EndpointMetrics:
    """What one endpoint did since the gateway started."""

    answers: Counter[int] = field(default_factory=Counter)
    """HTTP status -> number of answers."""
    bucket_counts: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BUCKETS_S) + 1))
    success_s: float = 0.0
    failure_s: float = 0.0
    last_at_s: float = 0.0

    def observe(self, status: int, duration_s: float) -> None:
        self.answers[status] += 1
        self.bucket_counts[bisect.bisect_left(LATENCY_BUCKETS_S, duration_s)] += 1
        self.last_at_s = time.time()
        if status < 400:
            self.success_s += duration_s
        else:
            self.failure_s += duration_s

    @property
    def num_successes(self) -> int:
        return sum(count for status, count in self.answers.items() if status < 400)

    @property
    def num_failures(self) -> int:
        return sum(count for status, count in self.answers.items() if status >= 400)


def render(metrics: dict[str, EndpointMetrics], *, in_flight: int) -> str:
    """The text exposition of all counters. Endpoint names are slugs: no label needs escaping."""
    lines = ["# TYPE xinfer_requests_total counter"]
    for name, endpoint in sorted(metrics.items()):
        for status, count in sorted(endpoint.answers.items()):
            lines.append(f'xinfer_requests_total{{endpoint="{name}",status="{status}"}} {count}')
    lines.append("# TYPE xinfer_errors_total counter")
    for name, endpoint in sorted(metrics.items()):
        lines.append(f'xinfer_errors_total{{endpoint="{name}"}} {endpoint.num_failures}')
    lines.append("# TYPE xinfer_request_duration_seconds histogram")
    for name, endpoint in sorted(metrics.items()):
        total = 0
        for bound, count in zip((*LATENCY_BUCKETS_S, "+Inf"), endpoint.bucket_counts, strict=True):
            total += count
            lines.append(f'xinfer_request_duration_seconds_bucket{{endpoint="{name}",le="{bound}"}} {total}')
        seconds = endpoint.success_s + endpoint.failure_s
        lines.append(f'xinfer_request_duration_seconds_sum{{endpoint="{name}"}} {seconds:.6f}')
        lines.append(f'xinfer_request_duration_seconds_count{{endpoint="{name}"}} {total}')
    lines += ["# TYPE xinfer_requests_in_flight gauge", f"xinfer_requests_in_flight {in_flight}"]
    return "\n".join(lines) + "\n"
