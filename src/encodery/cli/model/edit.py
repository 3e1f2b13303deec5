"""encodery model edit: change the vocabulary, the maximum length or the size of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from encodery.base.errors import SettingsError
from encodery.cli._options import ModelArgument, OutModel, Overwrite, Settings

if TYPE_CHECKING:
    from encodery.model.load import LoadedModel
    from encodery.model.shape import Batch


def command(
    model: ModelArgument,
    out: OutModel,
    surgery: Annotated[str, typer.Option("--surgery", "-s", help="The change, one of `encodery show surgery`.")],
    settings: Settings = None,
    texts: Annotated[
        Path | None,
        typer.Option(
            help="A file with one text a line, on which prune measures the model. The texts are not trained on."
        ),
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option(
            help="A token folder of the model's tokenizer, whose held-out documents take the place of --texts."
        ),
    ] = None,
    num_texts: Annotated[
        int, typer.Option(min=1, help="The number of texts of --texts or --tokens that are used, from the first on.")
    ] = 256,
    seed: Annotated[int, typer.Option(help="The seed of everything that is drawn at random.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Write a changed copy of a model. Nothing is trained.

    vocabulary: tokenizer=FOLDER replaces the tokenizer, words=FILE adds new words to it. lengthen: max_length=2048.
    grow, tile: width=512 depth=8 makes a larger model that starts from what this one has learned; coalesce makes a
    smaller one. prune: keep_heads=0.5 keep_intermediate=0.5 removes the heads and intermediate units that matter least
    for --texts. Continue training with: encodery pretrain TOKENS --recipe RECIPE init_from=OUT. To train a small part
    of a model instead of all of it, give adapt=lora to the training command (`encodery show adapt`).
    """
    import torch

    from encodery.base.parts import find_part
    from encodery.base.settings import decode, parse_overrides
    from encodery.cli._screen import screen
    from encodery.cli.model._carry import carried, check_vocabulary
    from encodery.model.load import load_model
    from encodery.surgery import Surgery

    part = decode(find_part(Surgery, surgery), parse_overrides(settings or []), where=surgery)
    loaded = load_model(model)
    if surgery == "vocabulary":
        check_vocabulary(loaded)
    batches = _calibration_batches(part.needs_texts, loaded, texts, tokens, num_texts)
    changed = part.operate(loaded, torch.Generator().manual_seed(seed), batches)
    changed.save(out, loaded, part, carried(loaded, changed.model), overwrite)
    line = ", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in changed.metrics.items())
    screen().print(f"{out}: {line}.", soft_wrap=True)


def _calibration_batches(
    needed: bool, loaded: LoadedModel, texts: Path | None, tokens: Path | None, num_texts: int
) -> list[Batch]:
    """Return the texts of a file, or of the held-out part of a token folder, as batches for the model."""
    from encodery.encoders.files import read_texts
    from encodery.model.shape import Batch
    from encodery.tokens.store import TokenStore

    if not needed:
        if texts is not None or tokens is not None:
            raise SettingsError("--texts, --tokens: this surgery does not measure the model on texts.")
        return []
    if (texts is None) == (tokens is None):
        raise SettingsError("This surgery measures the model on texts: give --texts FILE or --tokens FOLDER.")
    max_length = loaded.model.settings.max_length
    if texts is not None:
        lines = [line for line in read_texts(texts) if line.strip()][:num_texts]
        sequences = [ids.tolist() for ids in loaded.tokenizer.encode_batch(lines, add_special_tokens=True)]
    else:
        store = TokenStore.open(str(tokens))
        if store.tokenizer.fingerprint != loaded.tokenizer.fingerprint:
            raise SettingsError(f"{tokens}: was encoded with another tokenizer than the model's.")
        split, special = store.heldout, store.special_tokens
        documents = [split[number].tolist() for number in range(min(num_texts, len(split)))]
        sequences = [[special.cls_id, *ids[: max_length - 2], special.sep_id] for ids in documents]
    sequences = [ids[:max_length] for ids in sequences]
    return [Batch.from_sequences(sequences[at : at + 16]) for at in range(0, len(sequences), 16)]
