"""What a recipe of `encodery embed train` says.

What it leaves open is chosen by the data and the model (`defaults.py`). Shapes: C columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from encodery.adapt import Adaptation
from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.base.settings import check_at_least, check_interval
from encodery.embed.defaults import default_batch_size, default_epochs
from encodery.embed.examples import ROLES
from encodery.embed.losses import Loss
from encodery.embed.negatives import NegativeMiner
from encodery.embed.objectives import EmbeddingObjective
from encodery.embed.objectives.dense import Dense
from encodery.encoders.settings import DenseSettings
from encodery.tokens.windows import Truncate
from encodery.train.hooks import Hook
from encodery.train.optim import Optimizer
from encodery.train.settings import TrainSettings


@dataclass(frozen=True, kw_only=True)
class EmbedTraining:
    """Settings of embedding training.

    What is trained:
        encoder: how texts become embeddings, in training and in use; what the recipe leaves out is the model's own.
        objective: what a text becomes, and what the model learns it from (`objectives/`).
        loss: what embeddings are learned from (`losses/`; absent: chosen by the data, `defaults.default_loss`).
        guide: a model whose embeddings the loss needs.
        adapt: what of the model is trained (absent: everything).
        dropout: of hidden states in training (absent: the model's own); attention weights have none.
        gather_across_devices: compare examples with those of all processes, so that a step is the same on any number
            of them; otherwise only with those of the same process.

    The data:
        columns: role -> column of the data, where the guess is wrong.
        roles: role of a text ("query" for the anchor, "document" for the others) -> name of its prompt; prompts that
            are called query and document are used by default.
        truncate: what happens to texts that are too long: "error", cut off "right" or "left", or "chunk": read in
            windows whose embeddings are averaged, as in use.
        heldout: fraction of the training rows that become dev rows where the data has none (0: none; absent: by
            `reading.hold_out_dev`).
        num_negatives: negatives taken from each row (absent: as many as every row has).
        miner: finds further negatives before training (`negatives/`), `num_mined_negatives` per row.
        random_span_mask: tokens of every text but the anchor that are replaced by one [MASK], for raw sentences whose
            second text is the first (0: none).

    The run:
        batch: examples per step (absent: by `defaults.default_batch_size`).
        epochs: absent: 20,000 examples in all, at least one epoch and at most ten.
        optim: absent: AdamW at 3e-5 for a width of 768, more for narrower models.
    """

    encoder: DenseSettings = field(default_factory=DenseSettings)
    objective: EmbeddingObjective = field(default_factory=Dense)
    loss: Loss | None = None
    guide: str | None = None
    adapt: Adaptation | None = None
    dropout: float | None = None
    gather_across_devices: bool = True
    columns: dict[str, str] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)
    truncate: Truncate = "right"
    heldout: float | None = None
    num_negatives: int | None = None
    miner: NegativeMiner | None = None
    num_mined_negatives: int = 1
    random_span_mask: int = 0
    batch: int | None = None
    epochs: float | None = None
    optim: Optimizer | None = None
    train: TrainSettings = field(default_factory=TrainSettings)
    hooks: tuple[Hook, ...] = ()

    def __post_init__(self) -> None:
        check_interval(self, "0 <= x < 1", "dropout", "heldout")
        check_at_least(self, 1, "batch", "num_mined_negatives")
        check_at_least(self, 0, "num_negatives", "random_span_mask")
        if self.loss is not None and not self.objective.uses_loss:
            raise SettingsError(
                f"loss = '{name_of(self.loss)}': objective = '{name_of(self.objective)}' brings its own loss; leave "
                "one of the two out."
            )
        reason = self.objective.single_window
        if not reason and self.random_span_mask:
            reason = f"random_span_mask = {self.random_span_mask} masks a span of one sequence"
        if self.truncate == "chunk" and reason:
            raise SettingsError(f"truncate = 'chunk': {reason}; choose error, right or left.")
        for role in self.roles:
            if role not in ROLES:
                raise SettingsError(f"roles: '{role}' is not a role of a text; the roles are {' and '.join(ROLES)}.")

    def batch_size_for(self, examples: int) -> int:
        """Return the examples per step for a number of training examples."""
        return self.batch or default_batch_size(self.loss, examples, self.epochs or default_epochs(examples))

    def max_tokens(self, model_length: int) -> int:
        """Return the tokens of a text that are read, special ones not counted, by a model that takes `model_length`."""
        return min(self.encoder.max_length or model_length, model_length) - 2

    def prompt_names(self, roles: Sequence[str]) -> list[str | None]:
        """Return the name of the prompt of each role, None for no prompt."""
        known = self.encoder.prompts
        return [self.roles.get(role, role if role in known else None) for role in roles]

    def prompts(self, roles: Sequence[str]) -> list[str]:
        """Return the prompt of each role, empty for none."""
        return [self.encoder.prompt(name) for name in self.prompt_names(roles)]
