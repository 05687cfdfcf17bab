"""The base install is NumPy only."""

from __future__ import annotations

import subprocess
import sys

import pytest

from xinfer import MissingExtraError
from xinfer._extras import require

OPTIONAL = (
    "openvino", "onnxruntime", "onnx", "nncf", "cv2", "PIL", "simplejpeg", "torch", "model_signing",
    "cryptography",
    "psutil", "scipy", "sklearn",
)  # fmt: skip


def test_importing_xinfer_imports_no_extra() -> None:
    code = f"import sys, xinfer, xinfer.cli; print([m for m in {OPTIONAL!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_missing_extra_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['simplejpeg'] = None\n"
        "import xinfer\n"
        "try:\n"
        "    xinfer.preproc.decode_image(b'', min_side=1)\n"
        "except xinfer.ImageDecodeError: pass\n"
        "from xinfer._extras import require\n"
        "try:\n"
        "    require('simplejpeg', 'image')\n"
        "except xinfer.MissingExtraError as error: print(error.hint, error.code)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "pip install 'ignition-xinfer[image]' dependency.missing"


def test_require_names_the_extra_when_the_module_does_not_exist() -> None:
    with pytest.raises(MissingExtraError) as caught:
        require("xinfer_no_such_module", "build")
    assert "ignition-xinfer[build]" in str(caught.value.hint)
