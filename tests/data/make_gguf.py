"""Writes tests/data/gguf with the `gguf` package: blocks of every quantised type with their values,
and tiny models as llama.cpp's convert_hf_to_gguf.py would convert them, with the originals.

Needs gguf, numpy and safetensors. Run in the root of the repository: python tests/data/make_gguf.py
"""

import pathlib

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T, quants
from safetensors.numpy import save_file

OUT = pathlib.Path("tests/data/gguf")
RNG = np.random.default_rng(1)


def permuted(rows, heads):
    """Where llama.cpp's conversion takes each row of a query or key projection from: the two halves
    of a head's rows in turn, since it rotates neighbours where transformers rotates halves."""
    return np.arange(rows).reshape(heads, 2, -1).transpose(0, 2, 1).ravel()


def blocks(kind, count):
    """Random blocks; the scales, which are F16 (F32 in Q8_K), are kept small and finite."""
    _, size = gguf.GGML_QUANT_SIZES[kind]
    raw = RNG.integers(0, 256, (count, size), dtype=np.uint8)
    at = {T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q2_K: [80, 82],
          T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208]}.get(kind)
    if at is None:
        raw[:, 0:4] = RNG.normal(size=(count, 1)).astype("<f4").view(np.uint8)
    else:
        for place in at:
            raw[:, place:place + 2] = RNG.normal(size=(count, 1)).astype("<f2").view(np.uint8)
    return raw


def dequantised(kind, raw):
    if kind == T.Q8_K:  # not in the package: an F32 scale, 256 signed bytes, sums that are not needed
        scale = raw[:, 0:4].copy().view("<f4")
        return scale * raw[:, 4:260].view(np.int8).astype(np.float32)
    return quants.dequantize(raw, kind)


def write_blocks():
    kinds = [T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K, T.Q8_K]
    writer = gguf.GGUFWriter(OUT / "blocks.gguf", "llama")
    metadata(writer, 256, 2, 2, len(kinds))
    values = {}
    writer.add_tensor("token_embd.weight", np.zeros((4, 256), np.float32))
    values["model.embed_tokens.weight"] = np.zeros((4, 256), np.float32)
    for i, kind in enumerate(kinds):
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        raw = blocks(kind, 2 * 256 // elements)
        writer.add_tensor(f"blk.{i}.ffn_up.weight", raw.reshape(2, -1), raw_dtype=kind)
        values[f"model.layers.{i}.mlp.up_proj.weight"] = dequantised(kind, raw).reshape(2, 256)
    finish(writer)
    save_file(values, OUT / "blocks.safetensors")


def metadata(writer, hidden, heads, kv_heads, layers, factors=None):
    writer.add_block_count(layers)
    writer.add_context_length(8192 * (1 if factors is None else 16))
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500000.0)
    writer.add_bos_token_id(1)
    writer.add_token_list([str(i) for i in range(8)])


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def layer_tensors(hidden, heads, kv_heads, head, layer):
    shapes = {
        "input_layernorm": ("attn_norm", [hidden]), "post_attention_layernorm": ("ffn_norm", [hidden]),
        "self_attn.q_proj": ("attn_q", [heads * head, hidden]), "self_attn.k_proj": ("attn_k", [kv_heads * head, hidden]),
        "self_attn.v_proj": ("attn_v", [kv_heads * head, hidden]), "self_attn.o_proj": ("attn_output", [hidden, heads * head]),
        "mlp.gate_proj": ("ffn_gate", [hidden, hidden]), "mlp.up_proj": ("ffn_up", [hidden, hidden]),
        "mlp.down_proj": ("ffn_down", [hidden, hidden]),
    }
    return {f"model.layers.{layer}.{hf}.weight": (f"blk.{layer}.{gg}.weight", shape) for hf, (gg, shape) in shapes.items()}


def llama3_factors(head, theta=500000.0, factor=8.0, low=1.0, high=4.0, context=8192):
    """What Llama 3's scaling divides each frequency by: 1 above `high` turns in the context, `factor`
    below `low`, and between them such that the frequency is interpolated."""
    turns = context * theta ** (-np.arange(0, head, 2) / head) / (2 * np.pi)
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)


def write_llama(name, kind, hidden=32, heads=4, kv_heads=2, tied=False, factors=None):
    """Two-dimensional weights as `kind`, norms as F32."""
    global RNG
    RNG = np.random.default_rng(2)
    head = hidden // heads
    tensors = {"model.embed_tokens.weight": ("token_embd.weight", [8, hidden]), "model.norm.weight": ("output_norm.weight", [hidden])}
    if not tied:
        tensors["lm_head.weight"] = ("output.weight", [8, hidden])
    tensors |= layer_tensors(hidden, heads, kv_heads, head, 0)
    writer = gguf.GGUFWriter(OUT / f"{name}.gguf", "llama")
    metadata(writer, hidden, heads, kv_heads, 1, factors)
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    originals = {}
    for hf, (gg, shape) in tensors.items():
        value = (RNG.normal(size=shape) / 8).astype(np.float16)
        stored = value
        if ".q_proj." in hf:
            stored = value[permuted(len(value), heads)]
        if ".k_proj." in hf:
            stored = value[permuted(len(value), kv_heads)]
        if len(shape) == 1:
            writer.add_tensor(gg, stored.astype(np.float32))
            originals[hf] = value.astype(np.float32)
        elif kind == T.F16:
            writer.add_tensor(gg, stored)
            originals[hf] = value
        else:
            raw = quants.quantize(stored.astype(np.float32), kind)
            writer.add_tensor(gg, raw, raw_dtype=kind)
            back = quants.dequantize(raw, kind).reshape(shape)
            # The same rows in the same blocks, only elsewhere.
            if ".q_proj." in hf or ".k_proj." in hf:
                order = permuted(len(value), heads if ".q_proj." in hf else kv_heads)
                back = back[np.argsort(order)]
            assert np.abs(back - value.astype(np.float32)).max() < 0.1
            originals[hf] = back
    finish(writer)
    save_file(originals, OUT / f"{name}.safetensors")


def write_plain(name, hidden, heads, kv_heads, head, plus_one=False, biased=False, renamed=None, more=None):
    """A family whose rows are not reordered; values that adding 1 does not round."""
    tensors = {"model.embed_tokens.weight": ("token_embd.weight", [8, hidden]), "model.norm.weight": ("output_norm.weight", [hidden])}
    tensors |= layer_tensors(hidden, heads, kv_heads, head, 0)
    if biased:
        for part, gg, count in [("q", "attn_q", heads), ("k", "attn_k", kv_heads), ("v", "attn_v", kv_heads)]:
            tensors[f"model.layers.0.self_attn.{part}_proj.bias"] = (f"blk.0.{gg}.bias", [count * head])
    for hf, gg in (renamed or {}).items():
        tensors[f"model.layers.0.{hf}.weight"] = (f"blk.0.{gg}.weight", [hidden])
    writer = gguf.GGUFWriter(OUT / f"{name}.gguf", name)
    metadata(writer, hidden, heads, kv_heads, 1)
    if more:
        more(writer)
    originals = {}
    for hf, (gg, shape) in tensors.items():
        dtype = np.float32 if len(shape) == 1 else np.float16
        value = (RNG.integers(-64, 64, size=shape) / 64).astype(dtype)
        originals[hf] = value
        writer.add_tensor(gg, value + dtype(plus_one and hf.endswith("norm.weight")))
    finish(writer)
    save_file(originals, OUT / f"{name}.safetensors")


def gemma2_keys(writer):
    writer.add_key_length(256)
    writer.add_value_length(256)
    writer.add_attn_logit_softcapping(50.0)
    writer.add_final_logit_softcapping(30.0)
    writer.add_sliding_window(4096)


def write_refused():
    for name, architecture, kind, more in [
        ("architecture", "rwkv6", T.F32, None),
        ("type", "llama", T.IQ4_NL, None),
        ("tensor", "llama", T.F32, "blk.0.ffn_gate_exps.weight"),
        ("rope", "llama", T.F32, "rope_freqs.weight"),
    ]:
        writer = gguf.GGUFWriter(OUT / f"refused_{name}.gguf", architecture)
        metadata(writer, 32, 2, 2, 1)
        writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
        if kind == T.IQ4_NL:
            writer.add_tensor("blk.0.ffn_up.weight", np.zeros((4, 18), np.uint8), raw_dtype=kind)
        if more:
            writer.add_tensor(more, np.full(8, 7, np.float32))
        finish(writer)


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    write_blocks()
    write_llama("llama_f16", T.F16)
    write_llama("llama_q8_0", T.Q8_0, tied=True)
    write_llama("llama_q4_0", T.Q4_0, factors=llama3_factors(8))
    write_plain("qwen2", 16, 2, 1, 8, biased=True)
    write_plain("gemma", 16, 2, 1, 16, plus_one=True, more=lambda writer: writer.add_key_length(16))
    gemma2 = {"post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
              "post_feedforward_layernorm": "post_ffw_norm"}
    write_plain("gemma2", 8, 1, 1, 256, plus_one=True, renamed=gemma2, more=gemma2_keys)
    write_refused()


main()
