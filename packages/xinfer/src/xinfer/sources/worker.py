"""Reads source models in processes of their own: ``python -P -m xinfer.sources.worker``.

Each line on stdin names a folder with ``job.json``; the job is done in a fork of this process (where the
system has none: in the process itself, which then ends), with bounds on memory, processor time and what it
writes. It leaves ``result.json``, written last, and its messages in ``log``. One line on stdout then says how
the fork ended: an exit code, minus a signal, or ``timeout``. The process ends with its stdin.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import select
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xinfer import schema
from xinfer._extras import require
from xinfer.errors import MissingExtraError, SourceModelError, XInferError
from xinfer.sources import checks, weights
from xinfer.sources import limits as bounds
from xinfer.sources.facts import OnnxFacts, collect_facts
from xinfer.sources.limits import Limits
from xinfer.sources.walk import all_graphs, fault, operator, title
from xinfer.sources.weights import MODEL_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator

_BASE_MEMORY_BYTES = 4 << 30
_WRITE_SLACK_BYTES = 256 << 20


def read_model(source: Path, out: Path, limits: Limits, *, given_as_bytes: bool) -> OnnxFacts:
    """Checks a model and writes it, normalised, as `MODEL_FILE`.

    Args:
        source: The ONNX file.
        out: An existing folder.
        limits: Bounds.
        given_as_bytes: The model has no folder of its own that weights could stand in.

    Returns:
        Facts about it.

    Raises:
        SourceModelError: It cannot be used.
    """
    import onnx

    data = source.read_bytes()
    checks.check_wire(data)
    try:
        model = onnx.ModelProto.FromString(data)
    except Exception as error:
        # protobuf's DecodeError has no public home that all its versions share.
        raise fault("malformed", f"this is no ONNX model: {_line(error, limits)}") from error
    del data
    # Training graphs are not inference's business; what they hold is not looked at.
    del model.training_info[:]
    checks.check_limits(model, limits)
    checks.sort_model(model)
    home = None if given_as_bytes else source
    sizes = weights.check_tensors(model, home, limits)
    _allow_memory(sizes.external_bytes, limits)
    external = sizes.embedded_bytes + sizes.external_bytes > limits.inline_bytes
    if external:
        weights.gather_beside(model, home, out)
    else:
        weights.gather_inside(model, home)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
        checks.sort_model(model)
    checks.name_nodes(model)
    _hide_weights(model)
    path = out / MODEL_FILE
    path.write_bytes(model.SerializeToString(deterministic=True))
    _ask_checker(onnx, model, path, external, limits)
    _ask_runtime(model, path, limits)
    return collect_facts(
        model,
        num_parameters=sizes.num_parameters,
        weight_bytes=sizes.embedded_bytes + sizes.external_bytes,
        external=external,
    )


def _hide_weights(model: Any) -> None:
    """Takes weights out of the inputs, where files before IR version 4 list them.

    Tools would take them for something that may change, and do not fold or remove them.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.ir_version = max(model.ir_version, 4)


def _ask_checker(onnx: Any, model: Any, path: Path, external: bool, limits: Limits) -> None:
    try:
        onnx.checker.check_model(str(path) if external else model)
    except Exception as error:
        text = str(error)
        kind = "malformed"
        if "No Op registered" in text or "No opset import" in text:
            kind = "unsupported_op"
        elif "InferenceError" in text:
            kind = "shape"
        _refuse(kind, model, text, limits)


def _ask_runtime(model: Any, path: Path, limits: Limits) -> None:
    """Opens the model in ONNX Runtime: what it has no kernel for, no engine can be compared with."""
    runtime = require("onnxruntime", "build")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        runtime.InferenceSession(str(path), sess_options=options, providers=["CPUExecutionProvider"])
    except Exception as error:
        text = str(error)
        kind = "malformed"
        if re.search(r"NOT_IMPLEMENTED|not a registered function|No Op registered|No opset import", text):
            kind = "unsupported_op"
        elif re.search(r"Unsupported model IR version|opset.*is under development|guarantees. support", text):
            kind = "unsupported_version"
        elif re.search(r"InferenceError|Incompatible dimensions|shape|Shape", text):
            kind = "shape"
        elif re.search(r"bad_alloc|Failed to allocate|out of memory", text):
            kind = "too_large"
        _refuse(kind, model, text, limits)


_NODE_PATTERNS = (
    r"node with name '(?P<name>[^']*)'",
    r"Node \((?P<name>[^)]*)\) Op \(",
    r'In Node, \("(?P<name>[^"]*)"',
    r"in node \((?P<name>[^)]*)\)",
    r"Bad node spec for node\. Name: (?P<name>.*?) OpType:",
    r"node name: (?P<name>[^)]*)\)",
    r"Node ?\((?P<name>[^)]*)\)",
    r"node '?(?P<name>[^' ]+)'?",
)
_OPERATOR = re.compile(r"(?:Fatal error: )?(?P<op>[\w.]*:?:?\w+)\(-?\d+\) is not a registered")


def _refuse(kind: str, model: Any, text: str, limits: Limits) -> None:
    """Raises what a tool said, with the node that it is about."""
    nodes = [node for graph in all_graphs(model.graph) for node in graph.node]
    found = None
    for pattern in _NODE_PATTERNS:
        match = re.search(pattern, text)
        if match:
            found = next((node for node in nodes if node.name and node.name == match["name"]), None)
        if found is not None:
            break
    match = _OPERATOR.search(text)
    if found is None and match:
        domain, _, kind_name = match["op"].rpartition(":")
        wanted = f"{domain.strip(':')}::{kind_name}" if domain.strip(":") else kind_name
        found = next((node for node in nodes if operator(node) == wanted), None)
    reason = _line(text, limits)
    where = f"{title(found)}: " if found is not None else ""
    if kind == "unsupported_op" and found is not None:
        reason = f"ONNX Runtime has no implementation of {operator(found)}" + (
            f" in domain {found.domain!r}" if found.domain else ""
        )
    hint = {
        "unsupported_op": "export with another opset, or write the operator in terms of standard ones",
        "unsupported_version": "export with an older opset, or upgrade onnxruntime",
    }.get(kind)
    raise fault(kind, f"{where}{reason}", value=found.name if found is not None else None, hint=hint)


def _line(error: object, limits: Limits) -> str:
    """A tool's message on one line, without the places in its own source and the paths of this machine."""
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error))
    text = re.sub(r"(?:[A-Za-z]:)?/[\w./+-]+/", "", text)
    return " ".join(text.split())[: limits.max_log_chars] or type(error).__name__


# ------------------------------------------------------------------------------------------ the process


def do_job(folder: Path) -> None:
    """Does the job in `folder` and writes its result."""
    job = json.loads((folder / "job.json").read_bytes())
    limits = Limits(**job["limits"])
    result: dict[str, Any]
    try:
        facts = read_model(Path(job["source"]), folder, limits, given_as_bytes=job["given_as_bytes"])
        result = {"facts": json.loads(schema.dumps(facts)), "digest": _digest(folder)}
    except XInferError as error:
        result = {"error": _document(error)}
    except MemoryError:
        result = {"error": _document(fault("too_large", "reading the model takes too much memory"))}
    except RecursionError:
        result = {"error": _document(fault("too_large", "the model is nested too deep"))}
    except Exception as error:
        # Damage reaches far into protobuf's and the tools' code.
        text = f"the model cannot be read: {type(error).__name__}: {_line(error, limits)}"
        result = {"error": _document(fault("malformed", text))}
    (folder / "result.tmp").write_text(json.dumps(result))
    (folder / "result.tmp").rename(folder / "result.json")


def _document(error: XInferError) -> dict[str, Any]:
    # The value is for people who debug: text is enough, and it may be anything.
    value = error.value if isinstance(error.value, (int, str, type(None))) else str(error.value)[:200]
    return {
        "code": error.code,
        "message": error.message.encode(errors="replace").decode()[:2000],
        "value": value.encode(errors="replace").decode()[:200] if isinstance(value, str) else value,
        "hint": error.hint,
        "missing": error.value if not isinstance(error, SourceModelError) else None,
    }


def _digest(folder: Path) -> str:
    """Content address of the model; with weights beside it, of both files' digests."""
    digests = []
    for name in (MODEL_FILE, weights.EXTERNAL_FILE):
        with contextlib.suppress(FileNotFoundError), (folder / name).open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    both = hashlib.sha256("".join(digests).encode()).hexdigest()
    return f"sha256:{digests[0] if len(digests) == 1 else both}"


def restrict(job: dict[str, Any]) -> None:
    """Bounds this process where the system can: memory, processor time, file size, no core file."""
    try:
        import resource
    except ImportError:
        return
    size = job["size_bytes"]
    memory = job["limits"]["memory_bytes"] or _BASE_MEMORY_BYTES + 5 * size
    seconds = max(1, int(job["timeout_s"]) + 1)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    with contextlib.suppress(OSError, ValueError):
        # The hard limit stays: weights outside the file, once found, allow for more.
        resource.setrlimit(resource.RLIMIT_AS, (_below(memory, hard), hard))
    for what, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 2 * size + job["limits"]["max_external_bytes"] + _WRITE_SLACK_BYTES),
    ):
        _, hard = resource.getrlimit(what)
        # macOS refuses some of them.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(what, (_below(value, hard),) * 2)


def _below(value: int, hard: int) -> int:
    return value if hard < 0 else min(value, hard)


def _allow_memory(external_bytes: int, limits: Limits) -> None:
    """Raises the bound on memory by what weights outside the file need, up to what the machine has."""
    if not external_bytes or limits.memory_bytes is not None:
        return
    with contextlib.suppress(ImportError, AttributeError, OSError, ValueError):
        import resource

        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        if soft >= 0:
            resource.setrlimit(
                resource.RLIMIT_AS, (_below(soft + min(5 * external_bytes, machine), hard), hard)
            )


def _redirect(folder: Path) -> None:
    """Sends what the tools print to the job's own log."""
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def _run_forked(folder: Path, timeout_s: float) -> str:
    """Does one job in a fork. Returns how it ended; ends this process if its stdin ends meanwhile."""
    ended, alive = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(ended)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            _redirect(folder)
            restrict(json.loads((folder / "job.json").read_bytes()))
            do_job(folder)
            code = 0
        finally:
            # Not exit: the buffers and handlers are the parent's.
            os._exit(code)
    os.close(alive)
    try:
        ready, _, _ = select.select([ended, 0], [], [], timeout_s)
        if ended not in ready:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            if ready:
                # The caller sends the next job only after this one's end, so this is its own end.
                os._exit(1)
            return "timeout"
        return str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    finally:
        os.close(ended)


def _lines() -> Iterator[bytes]:
    """Lines of stdin, unbuffered: what `select` sees must be what was not read yet."""
    line = b""
    while byte := os.read(0, 1):
        if byte == b"\n":
            yield line
            line = b""
        else:
            line += byte


def main() -> None:
    """Serves jobs until stdin ends."""
    answers = os.dup(1)
    os.dup2(2, 1)
    # Imported before the first fork: jobs then start in milliseconds. None of them may start a thread: a fork
    # of a process with threads may wait for a lock that nobody holds any more.
    import onnx
    import onnx.checker
    import onnx.inliner

    with contextlib.suppress(onnx.checker.ValidationError):
        # Its first call fills the table of operators.
        node = onnx.helper.make_node("Relu", ["x"], ["y"])
        onnx.checker.check_node(node)
    with contextlib.suppress(MissingExtraError):
        # Without it the job says which extra is missing.
        require("onnxruntime", "build")
    for line in _lines():
        folder = Path(os.fsdecode(line))
        job = json.loads((folder / "job.json").read_bytes())
        if bounds.HAS_FORK:
            end = _run_forked(folder, job["timeout_s"])
        else:
            _redirect(folder)
            restrict(job)
            do_job(folder)
            end = "0"
        os.write(answers, f"{end}\n".encode())
        if not bounds.HAS_FORK:
            return


if __name__ == "__main__":
    main()
