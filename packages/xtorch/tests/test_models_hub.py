"""Models from the Hugging Face hub, which is a server of this test's own."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from xtorch import models
from xtorch.errors import SettingsError, WeightsError
from xtorch.models.bert import Bert, BertConfig

pytest.importorskip("huggingface_hub", reason="the hub's client is not installed")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BERT = {
    "model_type": "bert",
    "vocab_size": 30,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 12,
    "layer_norm_eps": 1e-12,
}
SMALL_BERT = BertConfig(vocabulary=30, channels=8, layers=2, heads=2, intermediate=16, max_length=12)


def repository(folder: Path, config: Any, state: dict[str, Tensor] | None) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    if state is not None:
        save_file({name: x.contiguous() for name, x in state.items()}, folder / "model.safetensors")
    return folder


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A hub at a URL; what lies below the folder is served as ``owner/name``."""
    root = tmp_path / "hub"

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, *, body: bool) -> None:
            parts = self.path.split("?")[0].strip("/").split("/")
            if parts[:1] == ["api"] or len(parts) < 5 or not (root / parts[0] / parts[1]).is_dir():
                self._fail("RepoNotFound")
                return
            path = root / parts[0] / parts[1] / "/".join(parts[4:])
            if not path.is_file():
                self._fail("EntryNotFound")
                return
            data = path.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def _fail(self, code: str) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", root
    server.shutdown()
    thread.join()
    server.server_close()


def seeded(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(parameter.numel()))
    return module.eval()


def test_bert_comes_from_the_hub_and_then_from_the_cache(served: tuple[str, Path], tmp_path: Path) -> None:
    url, root = served
    source = seeded(Bert(SMALL_BERT))
    state = {f"bert.{name}": x for name, x in source.state_dict().items()}
    repository(root / "made" / "bert", BERT, state | {"cls.bias": torch.zeros(3)})
    model = models.from_hub("made/bert", endpoint=url, cache_dir=tmp_path / "cache")
    ids_NS = torch.tensor([[3, 4, 5]])
    with torch.inference_mode():
        expected = source(ids_NS, torch.ones_like(ids_NS))
        assert torch.equal(model(ids_NS, torch.ones_like(ids_NS)), expected)
    for path in (root / "made" / "bert").iterdir():
        path.unlink()
    unreachable = "http://127.0.0.1:9"
    cached = models.from_hub("made/bert", endpoint=unreachable, cache_dir=tmp_path / "cache")
    assert torch.equal(cached(ids_NS, torch.ones_like(ids_NS)), expected)


def test_timm_names_come_with_their_number_of_classes(served: tuple[str, Path], tmp_path: Path) -> None:
    url, root = served
    source = seeded(models.create("resnet18", num_classes=4))
    config = {"architecture": "resnet18.a1_in1k", "num_classes": 4}
    repository(
        root / "timm" / "resnet",
        config,
        {n: x.half() if x.is_floating_point() else x for n, x in source.state_dict().items()},
    )
    model = models.from_hub("timm/resnet", endpoint=url, cache_dir=tmp_path / "cache")
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    x_NCHW = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(model(x_NCHW), source(x_NCHW), rtol=0.02, atol=0.02)


def test_folder_and_named_architecture_load_without_a_hub(tmp_path: Path) -> None:
    source = seeded(models.create("mobilenet_v3_small", num_classes=5))
    folder = repository(tmp_path / "model", {}, source.state_dict())
    model = models.from_hub(str(folder), architecture="mobilenet_v3_small", num_classes=5)
    assert all(torch.equal(x, source.state_dict()[name]) for name, x in model.state_dict().items())


@pytest.mark.parametrize(
    ("config", "state", "says"),
    [
        ({"model_type": "llama"}, {}, "no architecture"),
        (BERT, None, "has no model.safetensors"),
        (BERT, {"embeddings.word_embeddings.weight": torch.zeros(3, 3)}, "do not fit"),
        (BERT | {"hidden_size": 10**9}, {}, "hidden_size"),
        (BERT | {"num_hidden_layers": 10**6}, {}, "num_hidden_layers"),
        (BERT | {"hidden_size": "8"}, {}, "hidden_size"),
        (BERT | {"num_attention_heads": 3}, {}, "heads"),
        (BERT | {"hidden_act": "relu"}, {}, "relu"),
        (BERT | {"layer_norm_eps": None}, {}, "layer_norm_eps"),
        ([1, 2], {}, "config.json"),
        ({"architecture": "vit_base_patch16_224", "num_classes": -1}, {}, "num_classes"),
        (
            {"architecture": "vit_base_patch16_224"},
            {"class_token": torch.zeros(1), "x": torch.zeros(1)},
            "names",
        ),
    ],
)
def test_repository_is_refused_with_a_typed_error(
    tmp_path: Path, config: Any, state: dict[str, Tensor] | None, says: str
) -> None:
    folder = repository(tmp_path / "model", config, state)
    with pytest.raises(WeightsError, match=says) as caught:
        models.from_hub(str(folder))
    assert caught.value.code == "weights.unavailable"


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    folder = repository(tmp_path / "model", BERT, None)
    (folder / "model.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(WeightsError, match="damaged"):
        models.from_hub(str(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="cannot be read"):
        models.from_hub(str(folder))


def test_hub_s_answers_become_typed_errors(
    served: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, root = served
    repository(root / "made" / "pickled", BERT, None)
    cache = tmp_path / "cache"
    with pytest.raises(WeightsError, match="never loaded"):
        models.from_hub("made/pickled", endpoint=url, cache_dir=cache)
    with pytest.raises(WeightsError, match="no repository"):
        models.from_hub("made/nothing", endpoint=url, cache_dir=cache)
    with pytest.raises(WeightsError, match="no name of a repository"):
        models.from_hub("a/b/c/d", endpoint=url, cache_dir=cache)
    with pytest.raises(WeightsError, match="cannot be reached") as caught:
        models.from_hub("made/never-seen", endpoint="http://127.0.0.1:9", cache_dir=cache)
    assert "give its path" in str(caught.value.hint)
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match="huggingface_hub") as caught:
        models.from_hub("made/pickled", endpoint=url, cache_dir=cache)
    assert "pip install" in str(caught.value.hint)


def test_options_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = repository(tmp_path / "model", {}, {})
    with pytest.raises(SettingsError, match="resnet51"):
        models.from_hub(str(folder), architecture="resnet51")
    with pytest.raises(SettingsError, match="does not take"):
        models.from_hub(str(folder), architecture="unet", num_classes=3)
