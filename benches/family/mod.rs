//! A family of Llamas with weights of noise, for benchmarks.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// The sizes of a Llama.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) hidden: usize,
    pub(crate) ffn: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) vocab: usize,
    pub(crate) layers: usize,
}

impl Size {
    /// The tensors of the model: name and shape.
    fn tensors(self) -> Vec<(String, Vec<usize>)> {
        let Self { hidden, ffn, heads, kv_heads, vocab, layers } = self;
        let kv = hidden / heads * kv_heads;
        let mut all = vec![
            ("lm_head.weight".to_string(), vec![vocab, hidden]),
            ("model.embed_tokens.weight".to_string(), vec![vocab, hidden]),
        ];
        for layer in 0..layers {
            for (name, shape) in [
                ("input_layernorm", vec![hidden]),
                ("mlp.down_proj", vec![hidden, ffn]),
                ("mlp.gate_proj", vec![ffn, hidden]),
                ("mlp.up_proj", vec![ffn, hidden]),
                ("post_attention_layernorm", vec![hidden]),
                ("self_attn.k_proj", vec![kv, hidden]),
                ("self_attn.o_proj", vec![hidden, hidden]),
                ("self_attn.q_proj", vec![hidden, hidden]),
                ("self_attn.v_proj", vec![kv, hidden]),
            ] {
                all.push((format!("model.layers.{layer}.{name}.weight"), shape));
            }
        }
        all.push(("model.norm.weight".to_string(), vec![hidden]));
        all
    }

    fn config(self) -> String {
        let Self { hidden, ffn, heads, kv_heads, vocab, layers } = self;
        format!(
            "{{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":{hidden},\
             \"intermediate_size\":{ffn},\"num_hidden_layers\":{layers},\"num_attention_heads\":{heads},\
             \"num_key_value_heads\":{kv_heads},\"vocab_size\":{vocab},\"tie_word_embeddings\":false,\
             \"rms_norm_eps\":1e-05,\"torch_dtype\":\"bfloat16\"}}"
        )
    }
}

/// Writes models of bell-shaped weights in bfloat16, those that are not there yet: the first with
/// deviation 0.02, the others the first plus a tenth of that.
pub(crate) fn make(dir: &Path, size: Size, names: &[&str]) {
    for (seed, name) in names.iter().enumerate() {
        make_model(&dir.join(name), size, seed as u64);
    }
}

fn make_model(folder: &Path, size: Size, seed: u64) {
    let done = folder.join(format!("done-{}", size.layers));
    if done.exists() {
        return;
    }
    println!("making {}", folder.display());
    let _ = std::fs::remove_dir_all(folder);
    std::fs::create_dir_all(folder).unwrap();
    let tensors = size.tensors();
    let mut header = String::from("{\"__metadata__\":{\"format\":\"pt\"}");
    let mut at = 0;
    for (name, shape) in &tensors {
        let end = at + 2 * shape.iter().product::<usize>();
        header += &format!(
            ",\"{name}\":{{\"dtype\":\"BF16\",\"shape\":{shape:?},\"data_offsets\":[{at},{end}]}}"
        );
        at = end;
    }
    header.push('}');
    let padded = header.len().next_multiple_of(8);
    let mut file =
        BufWriter::with_capacity(1 << 20, File::create(folder.join("model.safetensors")).unwrap());
    file.write_all(&(padded as u64).to_le_bytes()).unwrap();
    file.write_all(format!("{header:padded$}").as_bytes()).unwrap();
    let mut base = Noise(0x9E37_79B9_7F4A_7C15);
    let mut own = Noise(0xD1B5_4A32_D192_ED03 ^ (seed << 32 | 1));
    for _ in 0..at / 2 {
        let mut value = 0.02 * base.next();
        if seed > 0 {
            value += 0.002 * own.next();
        }
        let bits = value.to_bits();
        let rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        file.write_all(&(rounded as u16).to_le_bytes()).unwrap();
    }
    file.flush().unwrap();
    std::fs::write(folder.join("config.json"), size.config()).unwrap();
    std::fs::write(done, "").unwrap();
}

/// Roughly normal values: the sum of the four bytes' halves of a xorshift state, centred.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let parts = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D);
        let sum: u64 = (0..4).map(|i| parts >> (16 * i) & 0xffff).sum();
        // Four uniform parts of variance 1/12 each: deviation 1/√3 of a part.
        (sum as f32 / 65_536.0 - 2.0) * 1.732_050_8
    }
}
