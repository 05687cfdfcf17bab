"""Which words spoke for an answer: each is hidden in turn.

Source: Li, Monroe and Jurafsky, "Understanding Neural Networks through Representation Erasure" (2016),
section 2; Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks" (ECCV 2014), section 4.2.
"""

from __future__ import annotations

import numpy as np
import torch

from xinfer.preproc.text import Tokenizer
from xtorch.tasks.text.model import TextModel

_MAX_WORDS = 120
_BATCH = 32


def word_weights(model: TextModel, tokenizer: Tokenizer, text: str, label: int) -> list[tuple[str, float]]:
    """Pieces of a text with what each adds to a label's logit, scaled so that the largest is 1 or -1.

    A word's weight is how far the logit, against the best other one, falls when all its tokens are hidden
    from attention and pooling. What the model does not see (the end of a long text) has no weight.

    Returns:
        Words with the space and punctuation behind them: joined, the text as far as the model sees it.
    """
    windows = tokenizer.encode_windows([text])
    ids_S, words_S = windows.feeds["input_ids"][0], windows.words[0]
    offsets_S2 = windows.offsets[0]
    numbers = [int(word) for word in dict.fromkeys(words_S[words_S >= 0].tolist())][:_MAX_WORDS]
    if not numbers:
        return []
    mask_NS = np.tile(windows.feeds["attention_mask"][0], (len(numbers) + 1, 1))
    for row, number in enumerate(numbers, start=1):
        mask_NS[row, words_S == number] = 0
    margins: list[float] = []
    ids = torch.from_numpy(ids_S)
    with torch.inference_mode():
        for masks in torch.from_numpy(mask_NS).split(_BATCH):
            logits_NC = model(ids.expand(len(masks), -1), masks).double().numpy()
            others_NC = np.delete(logits_NC, label, axis=1)
            best_N = others_NC.max(axis=1) if model.config.num_labels > 1 else np.zeros(len(logits_NC))
            margins += (logits_NC[:, label] - best_N).tolist()
    drops = np.array([margins[0] - margin for margin in margins[1:]])
    drops /= max(1e-9, float(np.abs(drops).max()))
    starts = [int(offsets_S2[words_S == number, 0].min()) for number in numbers]
    starts[0] = 0
    end = int(offsets_S2[words_S == numbers[-1], 1].max())
    stops = [*starts[1:], end]
    return [
        (text[start:stop], round(float(drop), 3))
        for start, stop, drop in zip(starts, stops, drops, strict=True)
        if stop > start
    ]
