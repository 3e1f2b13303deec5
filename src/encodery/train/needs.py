"""Memory and disk of a run, from its settings alone, and the refusal where they do not suffice."""

from __future__ import annotations

from dataclasses import dataclass

from encodery.base.errors import UserError

STATE_BYTES = 16  # of a trained parameter in memory: weight, gradient, two means
SAVED_BYTES = 12  # of a trained parameter in a checkpoint: weight, two means
RESERVE = 0.9  # of free memory that may be planned with


@dataclass(frozen=True)
class Needs:
    """Bytes a run needs of memory (this process) and disk; `activations`: of the memory."""

    memory: int
    disk: int
    activations: int = 0

    @classmethod
    def of(cls, parameters: int, activations: int, averages: int, keep: int) -> Needs:
        """Of so many parameters, bytes of activations, copies of averaged weights, and checkpoints kept."""
        saved = parameters * (SAVED_BYTES + 4 * averages)
        memory = parameters * (STATE_BYTES + 4 * averages) + activations
        # One more checkpoint than is kept, since a new one is whole before an old one goes; one for the branch.
        return cls(memory, saved * (keep + 2) + 4 * parameters, activations)

    def check(self, memory_free: int, disk_free: int) -> None:
        """Raises `UserError` with the numbers where memory or disk do not suffice."""
        if self.memory > memory_free * RESERVE:
            raise UserError(
                f"This run needs about {size_text(self.memory)} of memory and {size_text(memory_free)} are free. Lower "
                f"train.micro_tokens or set train.recompute=block (activations: {size_text(self.activations)}), or "
                "choose a smaller model (weights and their moments)."
            )
        if self.disk > disk_free:
            raise UserError(
                f"This run needs about {size_text(self.disk)} on disk for checkpoints and the model, and "
                f"{size_text(disk_free)} are free. Free some, lower train.keep, or write elsewhere (--out)."
            )


def size_text(count: float) -> str:
    """Bytes in MiB or GiB."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"
