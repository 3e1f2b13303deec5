"""Memory and disk that a run needs, from its settings alone, and the refusal if they do not suffice."""

from __future__ import annotations

from dataclasses import dataclass, replace

from encodery.base.errors import UserError

STATE_BYTES = 16  # of a trained parameter in memory: weight, gradient, two moments
OPTIMIZER_STATE_BYTES = 8  # of which the two moments
SAVED_BYTES = 12  # of a trained parameter in a checkpoint: weight, two moments
USABLE_FRACTION = 0.9  # of the free memory


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that a run needs: `memory` of the device (`activations` of it), `disk`, and `host_memory`: main memory
    besides that of the device, which is the same memory if the device is the CPU."""

    memory: int
    disk: int
    activations: int = 0
    host_memory: int = 0

    @classmethod
    def of(cls, parameters: int, activations: int, averages: int, keep: int, offload: bool = False) -> MemoryEstimate:
        """The estimate for a number of parameters, bytes of activations, copies of averaged weights, checkpoints kept,
        and optimiser state in main memory (`offload`)."""
        saved = parameters * (SAVED_BYTES + 4 * averages)
        host = parameters * OPTIMIZER_STATE_BYTES if offload else 0
        memory = parameters * (STATE_BYTES + 4 * averages) + activations - host
        # One checkpoint more than is kept, since a new one is complete before an old one is removed; one before the
        # decay.
        return cls(memory, saved * (keep + 2) + 4 * parameters, activations, host)

    def with_host_weights(self, waiting: int, working: int) -> MemoryEstimate:
        """The estimate with `waiting` bytes moved to main memory, of which `working` are on the device at a time."""
        return replace(self, memory=self.memory - waiting + working, host_memory=self.host_memory + waiting)

    def check(self, memory_free: int, disk_free: int, device_free: int | None = None) -> None:
        """Raise `UserError` with the numbers if memory or disk do not suffice; `device_free`: free memory of a device
        that is not the CPU."""
        on_cpu = device_free is None
        needed = self.memory + self.host_memory if on_cpu else self.memory
        free = memory_free if device_free is None else device_free
        if needed > free * USABLE_FRACTION:
            offload = "" if on_cpu or self.host_memory else ", train.optimizer_offload=true (moments in main memory)"
            raise UserError(
                f"This run needs about {format_bytes(needed)} of memory and {format_bytes(free)} are free. Lower "
                "train.micro_batch_tokens or set train.activation_checkpointing=block (activations: "
                f"{format_bytes(self.activations)}){offload}, or choose a smaller model (weights and optimiser state)."
            )
        if not on_cpu and self.host_memory > memory_free * USABLE_FRACTION:
            raise UserError(
                f"This run keeps {format_bytes(self.host_memory)} in main memory (train.optimizer_offload or "
                f"train.layerwise_offload), and {format_bytes(memory_free)} are free."
            )
        if self.disk > disk_free:
            raise UserError(
                f"This run needs about {format_bytes(self.disk)} on disk for checkpoints and the model, and "
                f"{format_bytes(disk_free)} are free. Free some, lower train.keep, or write elsewhere (--out)."
            )


def format_bytes(count: float) -> str:
    """Bytes in MiB or GiB."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"
