"""Makes tests/data/golden: tiny random checkpoints of every family, and the logits that transformers
computes for them in float32.

    python tests/golden/make_logits.py [NAME ...]

Needs torch and transformers (made with 2.15 and 5.23). Weights are rounded to bfloat16 before the
logits are computed, and stored so. Sizes are odd on purpose: fewer key-value heads than heads, heads
wider than hidden/heads, windows shorter than the sequence.
"""

import json
import pathlib
import shutil
import sys

import torch
import transformers as T
from safetensors import safe_open
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).parent.parent / "data" / "golden"
VOCABULARY, LENGTH = 67, 21

H = dict(vocab_size=VOCABULARY, hidden_size=24, intermediate_size=36, num_hidden_layers=2,
         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64)
MHA = {key: value for key, value in H.items() if key != "num_key_value_heads"}
THETA = dict(rope_theta=10000.0)


def rope(kind, **more):
    return dict(rope_parameters=dict(rope_type=kind, **THETA, **more))


LONG = dict(short_factor=[1.0, 1.5, 2.0], long_factor=[1.25, 2.0, 4.0])
EXPERTS = dict(num_experts=5, num_experts_per_tok=2, moe_intermediate_size=20)

# name: model class, config class, arguments
VARIANTS = {
    "llama": (T.LlamaForCausalLM, T.LlamaConfig, dict(H, head_dim=10)),
    "llama_tied_biased": (T.LlamaForCausalLM, T.LlamaConfig,
                          dict(MHA, tie_word_embeddings=True, attention_bias=True, mlp_bias=True,
                               hidden_act="gelu")),
    "llama_linear": (T.LlamaForCausalLM, T.LlamaConfig, dict(H, **rope("linear", factor=2.5))),
    "llama_dynamic": (T.LlamaForCausalLM, T.LlamaConfig,
                      dict(H, **rope("dynamic", factor=2.0)) | dict(max_position_embeddings=12)),
    "llama_yarn": (T.LlamaForCausalLM, T.LlamaConfig,
                   dict(H, head_dim=16, **rope("yarn", factor=4.0, original_max_position_embeddings=16,
                                               beta_fast=4.0))),
    "llama_llama3": (T.LlamaForCausalLM, T.LlamaConfig,
                     dict(H, head_dim=16, **rope("llama3", factor=8.0, low_freq_factor=1.0,
                                                 high_freq_factor=4.0,
                                                 original_max_position_embeddings=32))),
    "mistral": (T.MistralForCausalLM, T.MistralConfig, dict(H, head_dim=8, sliding_window=5)),
    "mixtral": (T.MixtralForCausalLM, T.MixtralConfig,
                dict(H, num_local_experts=5, num_experts_per_tok=2, sliding_window=None)),
    "qwen2": (T.Qwen2ForCausalLM, T.Qwen2Config,
              dict(H, use_sliding_window=True, sliding_window=6, max_window_layers=1)),
    "qwen2_moe": (T.Qwen2MoeForCausalLM, T.Qwen2MoeConfig,
                  dict(H, **EXPERTS, shared_expert_intermediate_size=28, mlp_only_layers=[0],
                       num_hidden_layers=3) | dict(num_hidden_layers=3)),
    "qwen3": (T.Qwen3ForCausalLM, T.Qwen3Config, dict(H, head_dim=10, tie_word_embeddings=True)),
    "qwen3_moe": (T.Qwen3MoeForCausalLM, T.Qwen3MoeConfig,
                  dict(H, head_dim=10, norm_topk_prob=True, decoder_sparse_step=2, **EXPERTS)),
    "qwen2_moe_windows": (T.Qwen2MoeForCausalLM, T.Qwen2MoeConfig,
                          dict(H, **EXPERTS, shared_expert_intermediate_size=28, use_sliding_window=True,
                               sliding_window=6, max_window_layers=1)),
    "qwen3_moe_windows": (T.Qwen3MoeForCausalLM, T.Qwen3MoeConfig,
                          dict(H, head_dim=10, norm_topk_prob=True, use_sliding_window=True, sliding_window=6,
                               max_window_layers=1, **EXPERTS)),
    "gemma": (T.GemmaForCausalLM, T.GemmaConfig, dict(H, head_dim=10)),
    "gemma2": (T.Gemma2ForCausalLM, T.Gemma2Config,
               dict(H, head_dim=10, sliding_window=5, query_pre_attn_scalar=30,
                    attn_logit_softcapping=3.0, final_logit_softcapping=4.0)),
    "gemma3": (T.Gemma3ForCausalLM, T.Gemma3TextConfig,
               dict(H, head_dim=10, sliding_window=5, query_pre_attn_scalar=30, num_hidden_layers=3,
                    layer_types=["sliding_attention", "full_attention", "sliding_attention"],
                    rope_parameters={
                        "sliding_attention": dict(rope_type="default", rope_theta=10000.0),
                        "full_attention": dict(rope_type="linear", factor=4.0, rope_theta=1e6)})
               | dict(num_hidden_layers=3)),
    "gemma3_multimodal": (T.Gemma3ForConditionalGeneration, T.Gemma3Config,
                          dict(text_config=dict(H, head_dim=10, sliding_window=5),
                               vision_config=dict(hidden_size=8, intermediate_size=8, image_size=28,
                                                  num_hidden_layers=1, num_attention_heads=2,
                                                  patch_size=14),
                               mm_tokens_per_image=4, image_token_index=1, boi_token_index=2,
                               eoi_token_index=2)),
    "phi": (T.PhiForCausalLM, T.PhiConfig,
            dict(H, **rope("default", partial_rotary_factor=0.4)) | dict(hidden_size=40)),
    "phi_normed": (T.PhiForCausalLM, T.PhiConfig,
                   dict(H, qk_layernorm=True, **rope("default", partial_rotary_factor=0.5))
                   | dict(hidden_size=32)),
    "phi3": (T.Phi3ForCausalLM, T.Phi3Config, dict(H, sliding_window=7, pad_token_id=0)),
    "phi3_long": (T.Phi3ForCausalLM, T.Phi3Config,
                  dict(H, original_max_position_embeddings=16, pad_token_id=0,
                       **rope("longrope", **LONG))),
    "phi3_short": (T.Phi3ForCausalLM, T.Phi3Config,
                   dict(H, original_max_position_embeddings=32, pad_token_id=0,
                        **rope("longrope", **LONG))),
    "stablelm": (T.StableLmForCausalLM, T.StableLmConfig,
                 dict(H, use_qkv_bias=True, **rope("default", partial_rotary_factor=0.25))
                 | dict(hidden_size=32)),
    "stablelm_parallel": (T.StableLmForCausalLM, T.StableLmConfig,
                          dict(H, use_parallel_residual=True, qk_layernorm=True,
                               **rope("default", partial_rotary_factor=0.5)) | dict(hidden_size=32)),
    "gpt_neox": (T.GPTNeoXForCausalLM, T.GPTNeoXConfig,
                 dict(MHA, **rope("default", partial_rotary_factor=0.25)) | dict(hidden_size=32)),
    "gpt_neox_serial": (T.GPTNeoXForCausalLM, T.GPTNeoXConfig,
                        dict(MHA, use_parallel_residual=False,
                             **rope("default", partial_rotary_factor=1.0))),
    "gpt2": (T.GPT2LMHeadModel, T.GPT2Config,
             dict(vocab_size=VOCABULARY, n_embd=24, n_layer=2, n_head=4, n_positions=32)),
    "gpt2_scaled": (T.GPT2LMHeadModel, T.GPT2Config,
                    dict(vocab_size=VOCABULARY, n_embd=24, n_layer=2, n_head=3, n_positions=32,
                         n_inner=40, scale_attn_by_inverse_layer_idx=True)),
    "opt": (T.OPTForCausalLM, T.OPTConfig,
            dict(vocab_size=VOCABULARY, hidden_size=24, num_hidden_layers=2, ffn_dim=40,
                 num_attention_heads=4, max_position_embeddings=32)),
    "opt_post_norm": (T.OPTForCausalLM, T.OPTConfig,
                      dict(vocab_size=VOCABULARY, hidden_size=24, num_hidden_layers=2, ffn_dim=40,
                           num_attention_heads=4, max_position_embeddings=32, word_embed_proj_dim=16,
                           do_layer_norm_before=False)),
    "opt_plain": (T.OPTForCausalLM, T.OPTConfig,
                  dict(vocab_size=VOCABULARY, hidden_size=24, num_hidden_layers=2, ffn_dim=40,
                       num_attention_heads=4, max_position_embeddings=32, enable_bias=False,
                       layer_norm_elementwise_affine=False, activation_function="gelu")),
    "bloom": (T.BloomForCausalLM, T.BloomConfig,
              dict(vocab_size=VOCABULARY, hidden_size=24, n_layer=2, n_head=6)),
    "falcon": (T.FalconForCausalLM, T.FalconConfig,
               dict(vocab_size=VOCABULARY, hidden_size=24, num_hidden_layers=2, num_attention_heads=3)),
    "falcon_new": (T.FalconForCausalLM, T.FalconConfig,
                   dict(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2,
                        num_attention_heads=4, num_kv_heads=2, new_decoder_architecture=True)),
    "falcon_alibi": (T.FalconForCausalLM, T.FalconConfig,
                     dict(vocab_size=VOCABULARY, hidden_size=24, num_hidden_layers=2,
                          num_attention_heads=6, multi_query=False, parallel_attn=False, bias=True,
                          alibi=True)),
    "mpt": (T.MptForCausalLM, T.MptConfig,
            dict(vocab_size=VOCABULARY, d_model=24, n_heads=6, n_layers=2, max_seq_len=32,
                 attn_config=dict(clip_qkv=0.5))),
    "olmo2": (T.Olmo2ForCausalLM, T.Olmo2Config, H),
    "granite": (T.GraniteForCausalLM, T.GraniteConfig,
                dict(H, embedding_multiplier=3.0, logits_scaling=2.0, residual_multiplier=0.5,
                     attention_multiplier=0.3)),
    "cohere": (T.CohereForCausalLM, T.CohereConfig, dict(H, logit_scale=0.25)),
    "cohere_normed": (T.CohereForCausalLM, T.CohereConfig,
                      dict(H, use_qk_norm=True, logit_scale=0.75)),
    "starcoder2": (T.Starcoder2ForCausalLM, T.Starcoder2Config, dict(H, sliding_window=6)),
    "deepseek": (T.LlamaForCausalLM, T.LlamaConfig, dict(MHA, num_hidden_layers=3) | dict(num_hidden_layers=3)),
    "mamba": (T.MambaForCausalLM, T.MambaConfig,
              dict(vocab_size=VOCABULARY, hidden_size=20, num_hidden_layers=2, state_size=6,
                   time_step_rank=3, expand=2)),
}

# Configs that are rewritten as published ones were before transformers 5.
OLD = {"llama", "llama_linear", "llama_llama3", "mistral", "qwen2", "qwen2_moe_windows", "gemma2", "phi", "phi3_long",
       "gpt_neox", "stablelm", "cohere", "starcoder2", "falcon"}
ROTARY_FRACTION = {"gpt_neox": "rotary_pct"}


def mixture(model, config):
    """DeepSeek-MoE is Llama with mixtures; transformers has its mixture in DeepSeek V2."""
    from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Moe

    own = dict(n_routed_experts=5, n_shared_experts=2, num_experts_per_tok=2, moe_intermediate_size=12)
    inner = T.DeepseekV2Config(hidden_size=24, num_attention_heads=4, num_key_value_heads=4, topk_method="greedy", norm_topk_prob=False,
                               routed_scaling_factor=1.0, n_group=1, topk_group=1, **own)
    inner._experts_implementation = "eager"
    for layer in model.model.layers[1:]:
        layer.mlp = DeepseekV2Moe(inner)
    return dict(own, model_type="deepseek", architectures=["DeepseekForCausalLM"],
                first_k_dense_replace=1, moe_layer_freq=1, norm_topk_prob=False, scoring_func="softmax")


def split_experts(state, config):
    """One tensor an expert, as DeepSeek-MoE is published."""
    split = {}
    for name, tensor in state.items():
        stem, _, last = name.rpartition(".")
        if last == "gate_up_proj" and tensor.dim() == 3:
            for i, expert in enumerate(tensor):
                gate, up = expert.chunk(2, dim=0)
                split[f"{stem}.{i}.gate_proj.weight"] = gate.contiguous()
                split[f"{stem}.{i}.up_proj.weight"] = up.contiguous()
        elif last == "down_proj" and tensor.dim() == 3:
            for i, expert in enumerate(tensor):
                split[f"{stem}.{i}.down_proj.weight"] = expert.contiguous()
        else:
            split[name] = tensor
    return split


def old_spelling(name, config):
    parameters = config.pop("rope_parameters", None)
    if parameters:
        config["rope_theta"] = parameters.pop("rope_theta", 10000.0)
        fraction = parameters.pop("partial_rotary_factor", None)
        if fraction is not None:
            config[ROTARY_FRACTION.get(name, "partial_rotary_factor")] = fraction
        parameters.pop("original_max_position_embeddings", None) if name == "phi3_long" else None
        if parameters.get("rope_type", "default") != "default":
            config["rope_scaling"] = parameters
    config["torch_dtype"] = config.pop("dtype", "bfloat16")
    config.pop("layer_types", None)


def make(name):
    model_class, config_class, arguments = VARIANTS[name]
    torch.manual_seed(sum(map(ord, name)))
    config = config_class(**arguments)
    # Falcon's eager attention adds linear biases twice in transformers 5.23; its default does not.
    config._attn_implementation = "sdpa" if name == "falcon_alibi" else "eager"
    model = model_class(config).float().eval()
    extra = mixture(model, config) if name == "deepseek" else {}
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith(("A_log", ".D", "dt_proj.bias")):
                parameter.add_(torch.randn_like(parameter) * 0.2)
            elif parameter.dim() == 1 or "norm" in key:
                centre = 0.0 if key.endswith("bias") or "gemma" in name else 1.0
                parameter.copy_(centre + torch.randn_like(parameter) * 0.2)
            else:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
            parameter.copy_(parameter.bfloat16().float())
    model = model.eval()
    ids = torch.randint(3, VOCABULARY, (1, LENGTH))
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[0].float()
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if name == "deepseek":
        state = {key: value.bfloat16() for key, value in split_experts(model.state_dict(), config).items()}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(folder)
    else:
        model.bfloat16().save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    path = folder / "config.json"
    written = json.loads(path.read_text()) | extra
    if name in OLD:
        old_spelling(name, written)
    written.pop("transformers_version", None)
    path.write_text(json.dumps(written, indent=1, sort_keys=True) + "\n")
    save_file({"ids": ids[0].float(), "logits": logits.contiguous()}, folder / "golden.safetensors")
    with safe_open(folder / "model.safetensors", "pt") as stored:
        names = list(stored.keys())
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{name}: {len(names)} tensors, {size} bytes, logits within {logits.abs().max():.2f}")


if __name__ == "__main__":
    for chosen in sys.argv[1:] or VARIANTS:
        make(chosen)
