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


def permute(weights, heads):
    """What LlamaModel.permute of convert_hf_to_gguf.py does to the rows of each head."""
    halves = weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return halves.swapaxes(1, 2).reshape(weights.shape)


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
    writer.add_token_list(["<s>", "a", "b"])


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
    """The loop of LlamaModel.generate_extra_tensors."""
    factors = []
    for freq in 1.0 / theta ** (np.arange(0, head, 2, dtype=np.float32) / head):
        wavelength = 2 * np.pi / freq
        if wavelength < context / high:
            factors.append(1)
        elif wavelength > context / low:
            factors.append(factor)
        else:
            smooth = (context / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, dtype=np.float32)


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
            stored = permute(value, heads)
        if ".k_proj." in hf:
            stored = permute(value, kv_heads)
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
            count = heads if ".q_proj." in hf else kv_heads
            if ".q_proj." in hf or ".k_proj." in hf:
                back = back.reshape(count, head // 2, 2, hidden).swapaxes(1, 2).reshape(shape)
                assert np.abs(back - value.astype(np.float32)).max() < 0.1
            originals[hf] = back
    finish(writer)
    save_file(originals, OUT / f"{name}.safetensors")


def write_gemma():
    hidden, heads, kv_heads, head = 32, 2, 1, 16
    tensors = {"model.embed_tokens.weight": ("token_embd.weight", [8, hidden]), "model.norm.weight": ("output_norm.weight", [hidden])}
    tensors |= layer_tensors(hidden, heads, kv_heads, head, 0)
    writer = gguf.GGUFWriter(OUT / "gemma.gguf", "gemma")
    metadata(writer, hidden, heads, kv_heads, 1)
    writer.add_key_length(head)
    originals = {}
    for hf, (gg, shape) in tensors.items():
        value = (RNG.integers(-64, 64, size=shape) / 64).astype(np.float32)
        originals[hf] = value
        writer.add_tensor(gg, value + 1 if hf.endswith("norm.weight") else value)
    finish(writer)
    save_file(originals, OUT / "gemma.safetensors")


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
    write_gemma()
    write_refused()


main()
