"""Peers of bench/encode.py: engines that a user can install today to encode texts on a CPU.

Each is a function of (model folder, calibration texts, threads, working folder) that returns a function from texts to
vectors of unit length. It raises ImportError if its packages are not installed; the bench then leaves it out and prints
the reason. All but sentence-transformers get the texts sorted by length, in batches of 32, padded to the longest text
of each batch.
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


def padded(sequences: list[list[int]]) -> dict[str, np.ndarray]:
    """Return the inputs of a padded batch: ids, mask and token types (B, L)."""
    ids = np.zeros((len(sequences), max(map(len, sequences))), np.int64)
    mask = np.zeros_like(ids)
    for number, row in enumerate(sequences):
        ids[number, : len(row)], mask[number, : len(row)] = row, 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def mean(hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the mean of the unmasked hidden states (B, L, H), normalised to unit length (B, H)."""
    means: np.ndarray = np.einsum("blh,bl->bh", hidden, mask.astype(np.float32))
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def sorted_batches(model: str, run: Callable[[list[list[int]]], np.ndarray]) -> Encode:
    """Return a function that tokenises all texts, sorts them by length, runs batches of 32, and restores the order."""
    tokenizer = tokenizer_of(model)

    def encode(texts: list[str]) -> np.ndarray:
        sequences = [one.ids for one in tokenizer.encode_batch(texts)]
        order = np.argsort([-len(row) for row in sequences], kind="stable")
        parts = [run([sequences[n] for n in order[i : i + BATCH]]) for i in range(0, len(order), BATCH)]
        results = np.empty((len(sequences), parts[0].shape[1]), np.float32)
        results[order] = np.concatenate(parts)
        return results

    return encode


def graph_of(model: str, work_dir: Path) -> Path:
    """Return the file of an ONNX graph in the classic form; no engine fuses the graph of PyTorch's exporter."""
    from encodery.model.load import load_model
    from encodery.runtimes.onnx_graph import build_graph

    file = work_dir / "float32.onnx"
    if not file.is_file():
        file.write_bytes(build_graph(load_model(model).model).SerializeToString())
    return file


def quantised(source: Path, model: str, texts: list[str]) -> Any:
    """Return the graph with 8-bit weights and activations: quantised after training by NNCF, calibrated on `texts`."""
    nncf = importlib.import_module("nncf")
    graph = importlib.import_module("openvino").Core().read_model(source)
    names = {name for one in graph.inputs for name in one.get_names()}
    sequences = [padded([one.ids]) for one in tokenizer_of(model).encode_batch(texts)]
    samples = [{name: array for name, array in one.items() if name in names} for one in sequences]
    return nncf.quantize(graph, nncf.Dataset(samples), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(samples))


def saved(graph: Any, file: Path) -> Path:
    """Save a quantised graph for the next run."""
    importlib.import_module("openvino").save_model(graph, file, compress_to_fp16=False)
    return file


def sentence_transformers(model: str, texts: list[str], threads: int, work_dir: Path) -> Encode:
    """sentence-transformers with PyTorch in float32: the reference of all ratios."""
    peer_model = importlib.import_module("sentence_transformers").SentenceTransformer(model, device="cpu")

    def encode(texts: list[str]) -> np.ndarray:
        vectors: np.ndarray = peer_model.encode(texts, show_progress_bar=False)
        return vectors

    return encode


def sentence_transformers_openvino_int8(model: str, texts: list[str], threads: int, work_dir: Path) -> Encode:
    """The OpenVINO back end and batching of sentence-transformers (needs optimum-intel), quantised as by its export."""
    peer = importlib.import_module("sentence_transformers")
    importlib.import_module("optimum.intel.openvino")
    out = work_dir / "sentence-transformers"
    if not out.is_dir():
        peer.SentenceTransformer(model, backend="openvino", model_kwargs={"export": True}).save_pretrained(str(out))
    file = out / "openvino" / "openvino_model_qint8_quantized.xml"
    if not file.is_file():
        saved(quantised(out / "openvino" / "openvino_model.xml", model, texts), file)
    model_kwargs = {"file_name": f"openvino/{file.name}", "ov_config": {"INFERENCE_NUM_THREADS": threads}}
    peer_model = peer.SentenceTransformer(str(out), device="cpu", backend="openvino", model_kwargs=model_kwargs)

    def encode(texts: list[str]) -> np.ndarray:
        vectors: np.ndarray = peer_model.encode(texts, show_progress_bar=False)
        return vectors

    return encode


def openvino_int8(model: str, texts: list[str], threads: int, work_dir: Path) -> Encode:
    """OpenVINO, quantised after training by NNCF on `texts`."""
    core = importlib.import_module("openvino").Core()
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    file = work_dir / "openvino_int8.xml"
    if not file.is_file():
        saved(quantised(graph_of(model, work_dir), model, texts), file)
    request = core.compile_model(core.read_model(file), "CPU", settings).create_infer_request()

    def run(sequences: list[list[int]]) -> np.ndarray:
        table = padded(sequences)
        return mean(request.infer(table)[0], table["attention_mask"])

    return sorted_batches(model, run)


def onnxruntime_int8(model: str, texts: list[str], threads: int, work_dir: Path) -> Encode:
    """ONNX Runtime with dynamic quantisation per channel, which its guides recommend for transformers."""
    engine = importlib.import_module("onnxruntime")
    tools = importlib.import_module("onnxruntime.quantization")
    out = work_dir / "onnxruntime_int8.onnx"
    if not out.is_file():
        tools.quantize_dynamic(
            graph_of(model, work_dir),
            out,
            per_channel=True,
            weight_type=tools.QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
    options = engine.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = engine.InferenceSession(str(out), options, providers=["CPUExecutionProvider"])

    def run(sequences: list[list[int]]) -> np.ndarray:
        table = padded(sequences)
        return mean(session.run(None, table)[0], table["attention_mask"])

    return sorted_batches(model, run)


def ctranslate2_int8(model: str, texts: list[str], threads: int, work_dir: Path) -> Encode:
    """CTranslate2, which leaves padding out of its linear layers."""
    engine = importlib.import_module("ctranslate2")
    out = work_dir / "ctranslate2"
    if not out.is_dir():
        engine.converters.TransformersConverter(model).convert(str(out), quantization="int8")
    encoder = engine.Encoder(str(out), device="cpu", compute_type="int8", intra_threads=threads, inter_threads=1)

    def run(sequences: list[list[int]]) -> np.ndarray:
        hidden = np.array(encoder.forward_batch(sequences).last_hidden_state)
        return mean(hidden, padded(sequences)["attention_mask"])

    return sorted_batches(model, run)


UNIT = "sentence-transformers"
PEERS = {
    UNIT: sentence_transformers,
    "sentence-transformers openvino int8": sentence_transformers_openvino_int8,
    "openvino int8": openvino_int8,
    "onnxruntime int8": onnxruntime_int8,
    "ctranslate2 int8": ctranslate2_int8,
}
