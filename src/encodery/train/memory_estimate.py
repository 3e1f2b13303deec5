"""Memory and disk of a run, from its settings alone, and the refusal where they do not suffice."""

from __future__ import annotations

from dataclasses import dataclass, replace

from encodery.base.errors import UserError

STATE_BYTES = 16  # of a trained parameter in memory: weight, gradient, two means
OPTIMIZER_STATE_BYTES = 8  # the two means of it
SAVED_BYTES = 12  # of a trained parameter in a checkpoint: weight, two means
USABLE_FRACTION = 0.9  # of free memory that may be planned with


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes a run needs of memory (this process's, where it computes) and disk; `activations`: of the memory.
    `aside`: bytes of main memory beside that of the device, the same where the device is the CPU."""

    memory: int
    disk: int
    activations: int = 0
    host_memory: int = 0

    @classmethod
    def of(cls, parameters: int, activations: int, averages: int, keep: int, offload: bool = False) -> MemoryEstimate:
        """Of so many parameters, bytes of activations, copies of averaged weights, checkpoints kept, and with moments
        that wait in main memory (`offload`)."""
        saved = parameters * (SAVED_BYTES + 4 * averages)
        aside = parameters * OPTIMIZER_STATE_BYTES if offload else 0
        memory = parameters * (STATE_BYTES + 4 * averages) + activations - aside
        # One more checkpoint than is kept, since a new one is whole before an old one goes; one for the branch.
        return cls(memory, saved * (keep + 2) + 4 * parameters, activations, aside)

    def with_host_weights(self, waiting: int, working: int) -> MemoryEstimate:
        """With `waiting` bytes of the memory in main memory instead, of which `working` are on the device at a time."""
        return replace(self, memory=self.memory - waiting + working, host_memory=self.host_memory + waiting)

    def check(self, memory_free: int, disk_free: int, device_free: int | None = None) -> None:
        """Raises `UserError` with the numbers where memory or disk do not suffice; `device_free`: of the device, where
        that is not the CPU."""
        here, free = (
            (self.memory + self.host_memory, memory_free) if device_free is None else (self.memory, device_free)
        )
        if here > free * USABLE_FRACTION:
            more = (
                ""
                if device_free is None or self.host_memory
                else " or train.optimizer_offload=true (moments in main memory)"
            )
            raise UserError(
                f"This run needs about {format_bytes(here)} of memory and {format_bytes(free)} are free. Lower "
                f"train.micro_batch_tokens or set train.activation_checkpointing=block (activations: {format_bytes(self.activations)}){more}, "
                "or choose a smaller model (weights and their moments)."
            )
        if device_free is not None and self.host_memory > memory_free * USABLE_FRACTION:
            raise UserError(
                f"The moments of this run need {format_bytes(self.host_memory)} of main memory (train.optimizer_offload), and "
                f"{format_bytes(memory_free)} are free."
            )
        if self.disk > disk_free:
            raise UserError(
                f"This run needs about {format_bytes(self.disk)} on disk for checkpoints and the model, and "
                f"{format_bytes(disk_free)} are free. Free some, lower train.keep, or write elsewhere (--out)."
            )


def format_bytes(count: float) -> str:
    """Bytes in MiB or GiB."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"
