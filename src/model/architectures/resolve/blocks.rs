//! Multilayer perceptrons, mixtures of them, and state spaces.

use super::super::architecture::{Dense, Experts, Scores, StateSpace};
use super::super::description::{ExpertsSection, MlpSection, StateSpaceSection};
use super::{MOST_LAYERS, Resolver, linear};
use crate::error::{Error, Result};
use crate::kernels::Activation;

impl Resolver<'_> {
    pub(super) fn dense(
        &self,
        section: &MlpSection,
        hidden: usize,
        expert: Option<usize>,
    ) -> Result<Dense> {
        let width = self.count("intermediate size", &section.width)?;
        let bias = self.flag("MLP bias", &section.bias, false)?;
        let name = |tensor: &str| {
            let name = format!("{}{tensor}", self.layer_prefix);
            expert.map_or(name.clone(), |expert| name.replace("{expert}", &expert.to_string()))
        };
        let up = match &section.gate {
            Some(gate) => vec![(name(gate), width), (name(&section.up), width)],
            None if section.fused => vec![(name(&section.up), 2 * width)],
            None => vec![(name(&section.up), width)],
        };
        Ok(Dense {
            up: linear(&up, hidden, bias, section.transposed),
            gated: section.gate.is_some() || section.fused,
            down: linear(&[(name(&section.down), hidden)], width, bias, section.transposed),
            activation: activation(&self.text("hidden_act", &section.activation)?)?,
            width,
        })
    }

    pub(super) fn experts(&self, section: &ExpertsSection, hidden: usize) -> Result<Experts> {
        let count = self.count("number of experts", &section.count)?;
        let chosen = self.count("experts per token", &section.chosen)?;
        if count > MOST_LAYERS || chosen > count {
            return Err(Error::input("the config asks for more experts than there are")
                .expected(format!("at most {}", count.min(MOST_LAYERS)), chosen.max(count)));
        }
        let name = |tensor: &str| format!("{}{tensor}", self.layer_prefix);
        let scores = match self.text("scoring function", &section.scores)?.as_str() {
            "softmax" => Scores::Softmax,
            "sigmoid" => Scores::Sigmoid,
            other => {
                return Err(Error::input("this scoring of experts is not supported")
                    .key("scoring_func")
                    .expected("softmax or sigmoid", other));
            }
        };
        let experts: Result<Vec<Dense>> =
            (0..count).map(|expert| self.dense(&section.expert, hidden, Some(expert))).collect();
        let shared = match &section.shared {
            Some(shared) if self.flag("shared experts", &shared.when, true)? => Some(shared),
            _ => None,
        };
        let shared_gate = shared.and_then(|shared| shared.gate.as_ref());
        Ok(Experts {
            router: linear(&[(name(&section.router), count)], hidden, false, false),
            choice_bias: section.choice_bias.as_ref().map(|tensor| name(tensor)),
            experts: experts?,
            chosen,
            scores,
            normalise: self.flag("norm_topk_prob", &Some(section.normalise.clone()), false)?,
            scale: self.factor("routed_scaling_factor", &section.scale)?,
            shared: shared.map(|shared| self.dense(&shared.mlp, hidden, None)).transpose()?,
            shared_gate: shared_gate.map(|gate| linear(&[(name(gate), 1)], hidden, false, false)),
        })
    }

    pub(super) fn state_space(
        &self,
        section: &StateSpaceSection,
        hidden: usize,
    ) -> Result<StateSpace> {
        let inner = self.count("intermediate_size", &section.inner)?;
        let state = self.count("state_size", &section.state)?;
        let rank = self.count("time_step_rank", &section.rank)?;
        let name = |tensor: &str| format!("{}{tensor}", self.layer_prefix);
        let bias = self.flag("use_bias", &Some(section.bias.clone()), false)?;
        let convolution_bias =
            self.flag("use_conv_bias", &Some(section.convolution_bias.clone()), false)?;
        let convolution = name(&section.convolution);
        Ok(StateSpace {
            inner,
            state,
            rank,
            kernel: self.count("conv_kernel", &section.kernel)?,
            activation: activation(&self.text("hidden_act", &section.activation)?)?,
            input: linear(&[(name(&section.input), 2 * inner)], hidden, bias, false),
            convolution_bias: convolution_bias.then(|| format!("{convolution}.bias")),
            convolution: format!("{convolution}.weight"),
            parameters: linear(
                &[(name(&section.parameters), rank + 2 * state)],
                inner,
                false,
                false,
            ),
            step: linear(&[(name(&section.step), inner)], rank, true, false),
            decay: name(&section.decay),
            skip: name(&section.skip),
            output: linear(&[(name(&section.output), hidden)], inner, bias, false),
        })
    }
}

/// The function of this name in a config.
fn activation(name: &str) -> Result<Activation> {
    Ok(match name {
        "silu" | "swish" => Activation::Silu,
        "gelu" => Activation::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Activation::GeluTanh,
        "quick_gelu" => Activation::GeluSigmoid,
        "relu" => Activation::Relu,
        "relu2" => Activation::ReluSquared,
        other => {
            return Err(Error::input("this activation function is not supported")
                .key("hidden_act")
                .expected(
                    "gelu, gelu_fast, gelu_new, gelu_pytorch_tanh, quick_gelu, relu, relu2 or silu",
                    other,
                ));
        }
    })
}
