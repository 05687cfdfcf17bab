"""What a run of the text recipe may be asked to do differently."""

from __future__ import annotations

from dataclasses import dataclass

from xtorch.errors import SettingsError

CANDIDATES = ("tfidf", "frozen", "contrastive", "fine_tuned")
SERVABLE = CANDIDATES[1:]


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """
    Attributes:
        text_columns, label_columns: Of a table; empty: found out.
        candidates: Which compete; at least one of those that can be served (all but ``tfidf``).
        max_tokens: Longest text that the model sees; longer ones are cut off at the end.
        label_names: Whether the labels' names help where there are few texts of each.
        max_wrong: The engine gives no label where it is unsure, so that at most this share of its answers is
            wrong; None: it always answers. Not for several labels a text.
    """

    text_columns: tuple[str, ...] = ()
    label_columns: tuple[str, ...] = ()
    candidates: tuple[str, ...] = CANDIDATES
    max_tokens: int = 256
    label_names: bool = True
    max_wrong: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.candidates, tuple) or set(self.candidates) - set(CANDIDATES):
            raise SettingsError(f"candidates may be {', '.join(CANDIDATES)}.", value=self.candidates)
        if not set(self.candidates) & set(SERVABLE):
            raise SettingsError(
                f"candidates must name one of {', '.join(SERVABLE)}: TF-IDF cannot be served.",
                value=list(self.candidates),
            )
        if not 16 <= self.max_tokens <= 512:
            raise SettingsError("max_tokens must be between 16 and 512.", value=self.max_tokens)
        if self.max_wrong is not None and not 0 < self.max_wrong < 1:
            raise SettingsError("max_wrong is a share between 0 and 1.", value=self.max_wrong)
