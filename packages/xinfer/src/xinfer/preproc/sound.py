"""Sound in: WAV files and arrays as one channel of float32 at the rate that a model takes.

Legend: S samples, C channels.
"""

from __future__ import annotations

import math
import os
import struct
from functools import lru_cache
from pathlib import Path

import numpy as np

from xinfer.errors import InputError

MAX_SAMPLES = 1 << 30
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_HALF_WIDTH = 24
"""Zero crossings of the resampling filter on each side."""
_KAISER_BETA = 8.6
"""About 80 dB of attenuation."""
_ROLL_OFF = 0.95
"""The filter's edge as a share of the lower Nyquist frequency, so that its slope ends before it."""


def decode_wav(data: bytes) -> tuple[np.ndarray, int]:
    """Reads a WAV file: PCM of 8, 16, 24 or 32 bits, or floats of 32 or 64.

    Args:
        data: The file.

    Returns:
        Samples [C,S] float32 in -1..1 (floats as they are), and samples per second.

    Raises:
        InputError: Not such a file (``audio.unreadable``).

    Source: Microsoft and IBM, "Multimedia Programming Interface and Data Specifications 1.0" (1991), RIFF
        WAVE; Microsoft, "Multiple Channel Audio Data and WAVE Files" (2007), WAVE_FORMAT_EXTENSIBLE.
    """
    if len(data) < 12 or data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise _unreadable("it is no WAV file")
    layout: tuple[int, int, int, int] | None = None
    position = 12
    while position + 8 <= len(data):
        kind, size = (
            data[position : position + 4],
            int.from_bytes(data[position + 4 : position + 8], "little"),
        )
        body = data[position + 8 : position + 8 + size]
        if kind == b"fmt ":
            layout = _layout(body)
        elif kind == b"data":
            if layout is None:
                raise _unreadable("its samples stand before their format")
            return _samples(body, *layout[:3]), layout[3]
        position += 8 + size + size % 2  # chunks begin at even offsets
    raise _unreadable("it holds no samples")


def mono(
    sound: bytes | np.ndarray | tuple[np.ndarray, int] | str | os.PathLike[str], *, sample_rate: int
) -> np.ndarray:
    """Sound as one channel at a rate.

    Args:
        sound: WAV bytes, a path of a WAV file, samples [S] or [C,S] at `sample_rate`, or samples and their
            rate. Floats are taken as they are; int16 is divided by 32768.
        sample_rate: Samples per second of the result.

    Returns:
        Samples [S] float32, the mean of the channels.

    Raises:
        InputError: The file cannot be read, or the array is not such samples.
    """
    rate = sample_rate
    if isinstance(sound, str | os.PathLike):
        try:
            sound = Path(sound).read_bytes()
        except OSError as error:
            raise InputError(
                f"cannot read {os.fspath(sound)!r}: {error.strerror}", value=str(sound)
            ) from error
    if isinstance(sound, bytes):
        samples, rate = decode_wav(sound)
    elif isinstance(sound, tuple):
        samples, rate = np.asarray(sound[0]), sound[1]
    else:
        samples = np.asarray(sound)
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "fi" or samples.size > MAX_SAMPLES:
        raise InputError(
            f"sound is samples [S] or [C,S], float or int16, not {samples.dtype} {list(samples.shape)}",
            value=list(samples.shape),
        )
    if samples.dtype.kind == "i" and samples.dtype != np.int16:
        raise InputError("whole-number samples must be int16", value=str(samples.dtype))
    scale = 1 / 32768 if samples.dtype == np.int16 else 1.0
    one_S = samples.astype(np.float32) * np.float32(scale)
    if one_S.ndim == 2:
        one_S = one_S.mean(axis=0)
    if not np.isfinite(one_S).all():
        raise InputError("sound holds samples that are not finite")
    return resample(one_S, rate, sample_rate)


def resample(samples_S: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Another number of samples per second, without aliasing.

    Args:
        samples_S: [S] float32.
        rate, new_rate: Samples per second, whole numbers.

    Returns:
        [ceil(S * new_rate / rate)] float32.

    Raises:
        InputError: A rate is not positive, or the two share so little that the filter would be huge.

    Source: Crochiere and Rabiner, "Multirate Digital Signal Processing" (1983), section 3.3 (polyphase
        structures for rational factors); the filter is a sinc under a window of Kaiser's (1974).
    """
    if min(rate, new_rate) < 1:
        raise InputError("a sample rate must be positive", value=min(rate, new_rate))
    if rate == new_rate or samples_S.size == 0:
        return samples_S
    divisor = math.gcd(rate, new_rate)
    up, down = new_rate // divisor, rate // divisor
    if max(up, down) > 4096:
        raise InputError(f"cannot resample {rate} to {new_rate} samples per second", value=rate)
    filters_UK, half = _filters(up, down)
    length = -(-samples_S.size * up // down)
    resampled_S = np.empty(length, np.float32)
    # Output n stands at n*down/up of the input: all n of one phase (n*down mod up) share a filter.
    padded_S = np.pad(samples_S, (half, half + down + 1))
    windows_SK = np.lib.stride_tricks.sliding_window_view(padded_S, 2 * half + 1)
    for first in range(min(up, length)):
        start, phase = divmod(first * down, up)
        count = -(-(length - first) // up)
        resampled_S[first::up] = windows_SK[start::down][:count] @ filters_UK[phase]
    return resampled_S


@lru_cache(maxsize=16)
def _filters(up: int, down: int) -> tuple[np.ndarray, int]:
    """One filter [2*half+1] for each of the `up` places between two samples, and half its width."""
    cutoff = _ROLL_OFF * min(1.0, up / down)
    half = math.ceil(_HALF_WIDTH / cutoff)
    distance_UK = np.arange(-half, half + 1)[None] - (np.arange(up) / up)[:, None]
    inside_UK = np.clip(1 - (distance_UK / (half + 1)) ** 2, 0, None)
    window_UK = np.i0(_KAISER_BETA * np.sqrt(inside_UK)) / np.i0(_KAISER_BETA)
    filters_UK = cutoff * np.sinc(cutoff * distance_UK) * window_UK
    filters_UK /= filters_UK.sum(axis=1, keepdims=True)
    return filters_UK.astype(np.float32), half


def _layout(body: bytes) -> tuple[int, int, int, int]:
    """Kind of numbers, bits of each, channels, samples per second."""
    if len(body) < 16:
        raise _unreadable("its format is cut off")
    kind, channels, rate, _, _, bits = struct.unpack("<HHIIHH", body[:16])
    if kind == _EXTENSIBLE and len(body) >= 26:
        kind = int.from_bytes(body[24:26], "little")
    if (kind, bits) not in {(_PCM, 8), (_PCM, 16), (_PCM, 24), (_PCM, 32), (_FLOAT, 32), (_FLOAT, 64)}:
        raise _unreadable(f"format {kind} of {bits} bits is not supported")
    if channels < 1 or rate < 1:
        raise _unreadable("it has no channel or no rate")
    return kind, bits, channels, rate


def _samples(body: bytes, kind: int, bits: int, channels: int) -> np.ndarray:
    frame = channels * bits // 8
    body = body[: len(body) - len(body) % frame]
    values: np.ndarray
    if kind == _FLOAT:
        values = np.frombuffer(body, f"<f{bits // 8}").astype(np.float32)
    elif bits == 8:
        values = (np.frombuffer(body, np.uint8).astype(np.float32) - 128) / 128
    elif bits == 24:
        wide = np.zeros((len(body) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(body, np.uint8).reshape(-1, 3)
        values = wide.view("<i4").ravel().astype(np.float32) / 2**31
    else:
        values = np.frombuffer(body, f"<i{bits // 8}").astype(np.float32) / 2 ** (bits - 1)
    return np.ascontiguousarray(values.reshape(-1, channels).T)


def _unreadable(reason: str) -> InputError:
    return InputError(f"the sound cannot be read: {reason}", code="audio.unreadable")
