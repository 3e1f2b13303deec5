"""What a recipe of `encodery embed train` says, and the rules for what it leaves open.

Shapes: E examples, H width of the model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from encodery.adapt import Adaptation
from encodery.base.errors import SettingsError
from encodery.embed.losses import Loss
from encodery.embed.negatives import NegativeMiner
from encodery.encoders.settings import DenseSettings
from encodery.encoders.sparse import QueryEncoding, SparseTerms
from encodery.tokens.windows import Truncate
from encodery.train.hooks import Hook
from encodery.train.optim import Optimizer
from encodery.train.optim.adamw import AdamW
from encodery.train.settings import TrainSettings

Kind = Literal["dense", "sparse", "tokens"]
"""One vector a text, a weight for each word of the vocabulary, or a vector for each token."""
SEEN = 20_000  # Examples seen in all, where the epochs are not given.
USUAL_WIDTH, USUAL_RATE = 768, 3e-5
BATCHES = (8, 16, 32, 64)
STEPS = 100  # Fewest steps of a run whose batches may be small.
LIGHT = 10.0  # How much faster a light adaptation learns.


@dataclass(frozen=True, kw_only=True)
class Rebuild:
    """`delete`: share of a text's tokens left out; `depth`: layers of the decoder that writes it again from the vector
    of the rest (`denoise_job.py`)."""

    delete: float = 0.6
    depth: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.delete < 1 or self.depth < 1:
            raise SettingsError(
                f"rebuild.delete = {self.delete}, rebuild.depth = {self.depth}: 0 <= delete < 1, depth at least 1."
            )


@dataclass(frozen=True, kw_only=True)
class Discourse:
    """Learning from how neighbouring sentences belong together (`discourse_job.py`). `window`: sentences of an example;
    `context`: how many of them are given to tell which of the others comes next; `rows`: a row of the data is a whole
    document, or one sentence of a single one."""

    window: int = 8
    context: int = 3
    rows: Literal["documents", "sentences"] = "documents"

    def __post_init__(self) -> None:
        if not 1 <= self.context <= self.window - 2:
            raise SettingsError(
                f"discourse.context = {self.context}, discourse.window = {self.window}: at least 1 sentence is given, "
                "and at least 2 are left to choose from."
            )


@dataclass(frozen=True, kw_only=True)
class EmbedTraining:
    """`kind`: what a text becomes. `embed`: how vectors are made, in training and in use; what the recipe leaves out is
    the model's own. For the kind "tokens": `token_width` of a token's vector, `query_length` to which queries are
    filled up with [MASK] (absent: not), `skip_punctuation` leaves documents' punctuation out (`multivector.py`).
    For the kind "sparse": which words are `weighed`, and what `queries` are (`sparse.py`).

    `loss`: chosen by the data if not given (`data.py`). `rebuild`: no loss of vectors, but what is left of a text after
    tokens were deleted must be enough to write it again; `discourse`: nor that, but how the sentences of raw documents
    belong together. `guide`: a model that the loss asks. `adapt`: what of the model learns (absent: everything).
    `dropout`: of hidden states in training (absent: the model's own); of attention weights there is none.
    `across_ranks`: examples are compared with those of all processes, so that a step is the same on any number of them;
    else with those of their own process.
    `whiten_before_training`: finish steps that learn are fitted before the first step and trained through (`through.py`), not
    after the last.
    `columns`: role -> column of the data, where a guess is wrong. `sides`: side of an example ("query" for the anchor,
    "document" for the others) -> name of the prompt that goes before its texts; prompts called query and document are
    used unasked. `truncate`: texts that are too long are an error, or cut "right" or "left", which is counted; "chunk":
    they are read in windows whose vectors are averaged, as `Embedder.encode` does (for one vector a text).
    `heldout`: share of the training rows that become dev rows where the data has none (0: none; absent: by
    `reading.held_out`).
    `wrong`: wrong answers taken from each row (absent: as many as every row has). `mine`: look for more of them,
    `mined` a row, before training. `hide`: tokens hidden in the second copy of a raw text.
    `batch`: examples a step (absent: by `usual_batch`); `epochs`: absent: 20,000 examples in all, at least one epoch
    and at most ten.
    `optim`: absent: AdamW at 3e-5 for a width of 768, and more the narrower the model.
    """

    kind: Kind = "dense"
    encoder: DenseSettings = field(default_factory=DenseSettings)
    token_width: int = 128
    query_length: int | None = None
    skip_punctuation: bool = False
    weighed: SparseTerms = "vocabulary"
    queries: QueryEncoding = "encoder"
    loss: Loss | None = None
    columns: dict[str, str] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)
    truncate: Truncate = "right"
    dropout: float | None = None
    heldout: float | None = None
    num_negatives: int | None = None
    miner: NegativeMiner | None = None
    num_mined_negatives: int = 1
    random_span_mask: int = 0
    guide: str | None = None
    rebuild: Rebuild | None = None
    discourse: Discourse | None = None
    adapt: Adaptation | None = None
    gather_across_devices: bool = True
    whiten_before_training: bool = False
    batch: int | None = None
    epochs: float | None = None
    optim: Optimizer | None = None
    train: TrainSettings = field(default_factory=TrainSettings)
    hooks: tuple[Hook, ...] = ()

    def __post_init__(self) -> None:
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise SettingsError(f"dropout = {self.dropout}: must lie in 0 <= dropout < 1.")
        if self.heldout is not None and not 0 <= self.heldout < 1:
            raise SettingsError(f"heldout = {self.heldout}: is a share of the rows, 0 <= heldout < 1.")
        if sum(way is not None for way in (self.loss, self.rebuild, self.discourse)) > 1:
            raise SettingsError("loss, rebuild, discourse: an embedding learns in one of these ways; give one.")
        if self.whiten_before_training and (self.kind != "dense" or self.rebuild or self.discourse):
            raise SettingsError(
                "whiten_before_training: is for one vector a text (kind = 'dense') and a loss of vectors."
            )
        if self.truncate == "chunk" and (why := self._one_window()):
            raise SettingsError(f"truncate = 'chunk': {why}; choose error, right or left.")
        if self.batch is not None and self.batch < 1:
            raise SettingsError(f"batch = {self.batch}: must be at least 1.")
        for name, least in (("token_width", 1), ("num_mined_negatives", 1), ("random_span_mask", 0)):
            if getattr(self, name) < least:
                raise SettingsError(f"{name} = {getattr(self, name)}: must be at least {least}.")
        if self.num_negatives is not None and self.num_negatives < 0:
            raise SettingsError(f"num_negatives = {self.num_negatives}: must not be negative.")
        for side in self.roles:
            if side not in ("query", "document"):
                raise SettingsError(f"roles: '{side}' is no side of an example; there are query and document.")

    def _one_window(self) -> str:
        """Why a text must be one sequence; nothing where it need not."""
        if self.kind != "dense":
            return f"averages one vector a window, and kind = '{self.kind}' has none to average"
        if self.rebuild is not None:
            return "rebuild writes a text again as one sequence, from the vector of one"
        if self.discourse is not None:
            return "discourse learns from sentences, which are one sequence each"
        return (
            f"random_span_mask = {self.random_span_mask} hides a span of one sequence" if self.random_span_mask else ""
        )

    def batch_size_for(self, examples: int) -> int:
        """Examples a step, of so many."""
        return self.batch or default_batch_size(self.loss, examples, self.epochs or default_epochs(examples))


def default_epochs(examples: int) -> float:
    """Epochs for so many examples: 20,000 of them seen in all, at least one epoch and at most ten."""
    return min(max(SEEN / max(examples, 1), 1.0), 10.0)


def default_batch_size(loss: Loss | None, examples: int, epochs: float) -> int:
    """Examples a step: 64, since the others of a batch are the wrong answers of each; but where a number says how alike
    texts are (`target` score or scores), the most of 8, 16, 32 and 64 that leaves 100 steps."""
    if loss is None or loss.target_kind not in ("score", "scores"):
        return BATCHES[-1]
    return max((batch for batch in BATCHES if examples * epochs / batch >= STEPS), default=BATCHES[0])


def default_optimizer(width: int, light: bool = False) -> Optimizer:
    """AdamW whose rate falls with the model's width H: 3e-5 at 768, times (768 / H)^1.5; `light`: ten times that.

    Measured at 128 on scored pairs: 0.743 against 0.714 at the rate that a plain 768 / H would give.
    """
    rate = USUAL_RATE * (USUAL_WIDTH / width) ** 1.5 * (LIGHT if light else 1.0)
    return AdamW(lr=float(f"{rate:.2g}"))
