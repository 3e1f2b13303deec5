"""Engines of others for bench/encode.py: what a user can install today to encode texts on a CPU.

Each is a function (model folder, texts to calibrate on, threads, a folder to work in) → a function from texts to
vectors of unit length. One whose packages are not installed raises ImportError, and is left out with that reason. All
but sentence-transformers get texts sorted by length, in batches of 32, padded to the longest of each.
Shapes: N texts, B a batch, L its longest text, H width.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 32
Encode = Callable[[list[str]], np.ndarray]


def tokenizer_of(model: str) -> Any:
    """Return the fast tokenizer of a folder, truncating at the length of its sentence-transformers settings."""
    tokenizer = importlib.import_module("tokenizers").Tokenizer.from_file(str(Path(model) / "tokenizer.json"))
    config = Path(model) / "sentence_bert_config.json"
    tokenizer.no_padding()
    tokenizer.enable_truncation(json.loads(config.read_text())["max_seq_length"] if config.is_file() else 512)
    return tokenizer


def padded(rows: list[list[int]]) -> dict[str, np.ndarray]:
    """ids, mask and segments (B, L)."""
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    mask = np.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, : len(row)], mask[number, : len(row)] = row, 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def mean(hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(B, L, H) → (B, H), of unit length."""
    means: np.ndarray = np.einsum("blh,bl->bh", hidden, mask.astype(np.float32))
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def sorted_batches(model: str, run: Callable[[list[list[int]]], np.ndarray]) -> Encode:
    """Tokenises at once, sorts, runs batches of 32, restores the order."""
    tokenizer = tokenizer_of(model)

    def encode(texts: list[str]) -> np.ndarray:
        rows = [one.ids for one in tokenizer.encode_batch(texts)]
        order = np.argsort([-len(row) for row in rows], kind="stable")
        parts = [run([rows[n] for n in order[i : i + BATCH]]) for i in range(0, len(order), BATCH)]
        results = np.empty((len(rows), parts[0].shape[1]), np.float32)
        results[order] = np.concatenate(parts)
        return results

    return encode


def graph_of(model: str, room: Path) -> Path:
    """The model as an ONNX graph in the classic shape: that of PyTorch's exporter is fused by no engine."""
    from encodery.model.load import load_model
    from encodery.runtimes.onnx_graph import build_graph

    file = room / "float32.onnx"
    if not file.is_file():
        file.write_bytes(build_graph(load_model(model).model).SerializeToString())
    return file


def quantised(source: Path, model: str, texts: list[str]) -> Any:
    """An OpenVINO or ONNX graph with 8-bit weights and activations, by NNCF after training, on `texts`."""
    nncf = importlib.import_module("nncf")
    whole = importlib.import_module("openvino").Core().read_model(source)
    names = {name for one in whole.inputs for name in one.get_names()}
    rows = [padded([one.ids]) for one in tokenizer_of(model).encode_batch(texts)]
    texts = [{name: array for name, array in row.items() if name in names} for row in rows]
    return nncf.quantize(whole, nncf.Dataset(texts), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(texts))


def saved(whole: Any, file: Path) -> Path:
    """The quantised graph in a file, for the next run."""
    importlib.import_module("openvino").save_model(whole, file, compress_to_fp16=False)
    return file


def sentence_transformers(model: str, texts: list[str], threads: int, room: Path) -> Encode:
    """The unit of all others: PyTorch in float32."""
    peer_model = importlib.import_module("sentence_transformers").SentenceTransformer(model, device="cpu")

    def encode(texts: list[str]) -> np.ndarray:
        vectors: np.ndarray = peer_model.encode(texts, show_progress_bar=False)
        return vectors

    return encode


def sentence_transformers_openvino_int8(model: str, texts: list[str], threads: int, room: Path) -> Encode:
    """sentence-transformers' own OpenVINO back end (needs optimum-intel) and batching, quantised as its export does."""
    peer = importlib.import_module("sentence_transformers")
    importlib.import_module("optimum.intel.openvino")
    target = room / "sentence-transformers"
    if not target.is_dir():
        peer.SentenceTransformer(model, backend="openvino", model_kwargs={"export": True}).save_pretrained(str(target))
    file = target / "openvino" / "openvino_model_qint8_quantized.xml"
    if not file.is_file():
        saved(quantised(target / "openvino" / "openvino_model.xml", model, texts), file)
    model_kwargs = {"file_name": f"openvino/{file.name}", "ov_config": {"INFERENCE_NUM_THREADS": threads}}
    peer_model = peer.SentenceTransformer(str(target), device="cpu", backend="openvino", model_kwargs=model_kwargs)

    def encode(texts: list[str]) -> np.ndarray:
        vectors: np.ndarray = peer_model.encode(texts, show_progress_bar=False)
        return vectors

    return encode


def openvino_int8(model: str, texts: list[str], threads: int, room: Path) -> Encode:
    """OpenVINO, quantised after training by NNCF on `texts`."""
    core = importlib.import_module("openvino").Core()
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    file = room / "openvino_int8.xml"
    if not file.is_file():
        saved(quantised(graph_of(model, room), model, texts), file)
    request = core.compile_model(core.read_model(file), "CPU", settings).create_infer_request()

    def run(rows: list[list[int]]) -> np.ndarray:
        table = padded(rows)
        return mean(request.infer(table)[0], table["attention_mask"])

    return sorted_batches(model, run)


def onnxruntime_int8(model: str, texts: list[str], threads: int, room: Path) -> Encode:
    """ONNX Runtime's dynamic quantisation, a scale for each channel: the one its guides name for transformers."""
    engine = importlib.import_module("onnxruntime")
    tools = importlib.import_module("onnxruntime.quantization")
    target = room / "onnxruntime_int8.onnx"
    if not target.is_file():
        tools.quantize_dynamic(
            graph_of(model, room),
            target,
            per_channel=True,
            weight_type=tools.QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
    options = engine.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = engine.InferenceSession(str(target), options, providers=["CPUExecutionProvider"])

    def run(rows: list[list[int]]) -> np.ndarray:
        table = padded(rows)
        return mean(session.run(None, table)[0], table["attention_mask"])

    return sorted_batches(model, run)


def ctranslate2_int8(model: str, texts: list[str], threads: int, room: Path) -> Encode:
    """CTranslate2, which leaves padding out of its linear layers."""
    engine = importlib.import_module("ctranslate2")
    target = room / "ctranslate2"
    if not target.is_dir():
        engine.converters.TransformersConverter(model).convert(str(target), quantization="int8")
    encoder = engine.Encoder(str(target), device="cpu", compute_type="int8", intra_threads=threads, inter_threads=1)

    def run(rows: list[list[int]]) -> np.ndarray:
        hidden = np.array(encoder.forward_batch(rows).last_hidden_state)
        return mean(hidden, padded(rows)["attention_mask"])

    return sorted_batches(model, run)


UNIT = "sentence-transformers"
PEERS = {
    UNIT: sentence_transformers,
    "sentence-transformers openvino int8": sentence_transformers_openvino_int8,
    "openvino int8": openvino_int8,
    "onnxruntime int8": onnxruntime_int8,
    "ctranslate2 int8": ctranslate2_int8,
}
