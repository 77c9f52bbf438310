"""Checks a GGUF file with programs that this project has no part in.

    python check_gguf.py MODEL.gguf [--weights model.safetensors [--interleaved]]
        [--reference reference.safetensors] [--texts expected.json [--special]]

Prints the metadata, and compares
  --weights    every tensor with a run's parameters, by llama.cpp's own quantisation (package gguf);
               --interleaved where the model's `position.pairing` is that
  --reference  logits that llama.cpp computes (package llama-cpp-python) with `logits` [B, T, V] of
               `input_ids` [B, T]
  --texts      ids that llama.cpp gives to texts with [{"text": .., "ids": [..]}, ..]; --special
               where special tokens in a text are recognised, as Hugging Face's tokenizers do
"""

import argparse
import json
import sys

import gguf
import numpy as np
from safetensors.numpy import load_file

# llama.cpp's part of a block, ours.
PARTS = {
    "attn_norm": "attention_norm",
    "attn_output": "attention.output",
    "attn_q_norm": "attention.query_norm",
    "attn_k_norm": "attention.key_norm",
    "attn_qkv": "attention.qkv",
    "ffn_norm": "feed_forward_norm",
    "ffn_gate": "feed_forward.gate",
    "ffn_up": "feed_forward.up",
    "ffn_down": "feed_forward.down",
}


def permute(weights, heads, order):
    """As LlamaModel.permute of llama.cpp's conversion/llama.py, or the way back."""
    half = weights.shape[0] // heads // 2
    split = (heads, 2, half) if order == "interleave" else (heads, half, 2)
    return weights.reshape(*split, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


def expected_tensor(name, shape, weights, settings, used):
    """What a tensor should be, from our parameters; None where it is none of them."""

    def ours(parameter):
        if parameter not in weights:
            # A bias that llama.cpp requires and the model has not, or a norm without factor.
            assert name.endswith(".bias") or "norm" in name, f"{parameter} is missing"
            return np.full(shape, 0.0 if name.endswith(".bias") else 1.0, np.float32)
        used.add(parameter)
        return weights[parameter].T if weights[parameter].ndim == 2 else weights[parameter]

    if name == "rope_freqs.weight":
        return None
    if name in ("token_embd.weight", "position_embd.weight"):
        return ours("embedding." + ("token" if name.startswith("token") else "position")).T
    if not name.startswith("blk."):
        part, kind = name.split(".")
        return ours({"output": "head", "output_norm": "decoder.final_norm"}[part] + "." + kind)
    _, layer, part, kind = name.split(".")
    block = f"decoder.blocks.{layer}."
    order = settings["order"]
    if part in PARTS:
        values = ours(block + PARTS[part] + "." + kind)
        is_rotated = part in ("attn_q_norm", "attn_k_norm") and order
        return permute(values, 1, order) if is_rotated else values
    heads, kv_heads = settings["heads"], settings["kv_heads"]
    first, count = {
        "attn_q": (0, heads),
        "attn_k": (heads, kv_heads),
        "attn_v": (heads + kv_heads, kv_heads),
    }[part]
    qkv = ours(f"{block}attention.qkv.{kind}")
    width = qkv.shape[0] // (heads + 2 * kv_heads)
    rows = qkv[first * width : (first + count) * width]
    return permute(rows, count, order) if order and part != "attn_v" else rows


def check_weights(reader, architecture, path, interleaved):
    def field(key):
        return reader.fields[f"{architecture}.{key}"].contents()

    # How llama.cpp pairs the numbers of a head, where that is not how we do.
    orders = {"llama": None if interleaved else "interleave", "gpt2": None}
    settings = {
        "heads": field("attention.head_count"),
        "kv_heads": field("attention.head_count_kv"),
        "order": orders.get(architecture, "halve" if interleaved else None),
    }
    weights, used = load_file(path), set()
    for tensor in reader.tensors:
        shape = tuple(int(length) for length in reversed(tensor.shape))
        expected = expected_tensor(tensor.name, shape, weights, settings, used)
        title = f"{tensor.name:32} {tensor.tensor_type.name:5} {shape}"
        if expected is None:
            print(f"{title} made from the configuration")
            continue
        assert shape == expected.shape, f"{tensor.name} is {shape}, expected {expected.shape}"
        expected = np.ascontiguousarray(expected)
        quantised = gguf.quants.quantize(expected, tensor.tensor_type)
        data = np.ascontiguousarray(tensor.data)
        same = np.array_equal(quantised.view(np.uint8), data.view(np.uint8))
        found = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        error = float(np.abs(found - expected).max())
        print(f"{title} largest error {error:.1e}")
        assert same, f"{tensor.name}: other bytes than llama.cpp's own quantisation makes"
    left_over = set(weights) - used
    assert not left_over, f"not in the file: {sorted(left_over)}"
    print(f"{len(reader.tensors)} tensors, bytes as llama.cpp's own quantisation makes them")


def check_logits(path, reference):
    import llama_cpp

    reference = load_file(reference)
    ids, expected = reference["input_ids"], reference["logits"]
    length = ids.shape[1]
    model = llama_cpp.Llama(
        path,
        n_ctx=length,
        n_batch=length,
        logits_all=True,
        # Keys and values are cached in f16 unless this is said.
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
        verbose=False,
    )
    differences, agreeing = [], 0
    for row, wanted in zip(ids, expected):
        model.reset()
        model.eval([int(token) for token in row])
        found = np.array(model.scores[: len(row)])
        differences.append(np.abs(found - wanted).max())
        agreeing += int((found.argmax(-1) == wanted.argmax(-1)).sum())
    print(
        f"logits: largest difference {max(differences):.2e}"
        f" of values up to {np.abs(expected).max():.2f};"
        f" {agreeing} of {ids.size} most likely tokens agree"
    )


def check_texts(path, texts, special):
    import llama_cpp

    model = llama_cpp.Llama(path, vocab_only=True, verbose=False)
    cases, wrong = json.load(open(texts)), 0
    for case in cases:
        found = model.tokenize(case["text"].encode(), add_bos=False, special=special)
        if found != case["ids"]:
            wrong += 1
            print(f"{case['text']!r}\n  is      {found}\n  expected {case['ids']}")
    print(f"texts: {len(cases) - wrong} of {len(cases)} get the expected ids")
    return wrong == 0


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--weights")
    parser.add_argument("--interleaved", action="store_true")
    parser.add_argument("--reference")
    parser.add_argument("--texts")
    parser.add_argument("--special", action="store_true")
    arguments = parser.parse_args()

    reader = gguf.GGUFReader(arguments.model)
    for name, field in reader.fields.items():
        value = field.contents()
        if isinstance(value, list) and len(value) > 8:
            print(f"{name} = {value[:8]} and {len(value) - 8} more")
        else:
            print(f"{name} = {value!r}")
    architecture = reader.fields["general.architecture"].contents()
    if arguments.weights:
        check_weights(reader, architecture, arguments.weights, arguments.interleaved)
    if arguments.reference:
        check_logits(arguments.model, arguments.reference)
    if arguments.texts and not check_texts(arguments.model, arguments.texts, arguments.special):
        sys.exit(1)


if __name__ == "__main__":
    main()
