//! From the keys of a recipe to the mixture that it asks for.

use super::super::raw::RawList;
use super::super::sources::{At, Sources};
use super::super::{Layout, Located, validate};
use super::raw::{RawDrop, RawExpert, RawExtract, RawMixture};
use super::{Dropped, Expert, Mixture, Surgery, Take, Texts};
use crate::error::{Error, Result, nearest};
use crate::model::GateMode;

/// What reads the keys of one recipe.
struct Reader<'a> {
    sources: &'a Sources,
}

/// The layout of a recipe about a mixture, and its base.
///
/// # Errors
/// Keys are missing, do not go together, or have values that they cannot have.
pub(in crate::recipe) fn layout(
    sources: &Sources,
    at: &Located<()>,
    mut raw: RawMixture,
    base: Option<Located<String>>,
) -> Result<(Layout, Located<String>)> {
    let reader = Reader { sources };
    let mixture = raw.mixture.take().map(|model| sources.locate(model));
    if let (Some(_), Some(base)) = (&mixture, &base) {
        return Err(base
            .error("a recipe has both `mixture` and `base_model`")
            .key("base_model")
            .hint("what is made of a mixture has the mixture as its base: remove `base_model`"));
    }
    let (layout, base) = match (mixture, raw.experts.is_some()) {
        (None, false) => {
            let (key, place) = raw.first().unwrap_or(("experts", At::nowhere(())));
            let place = sources.locate(place);
            let (wanted, hint) = match key {
                "extract" | "drop" | "renormalise" => {
                    ("mixture", "name the mixture that is to be changed: `mixture: MODEL`")
                }
                _ => (
                    "experts",
                    "list the models that become experts: `experts: [{source_model: MODEL, positive_prompts: [TEXT]}]`",
                ),
            };
            let error = place.error(format!("`{key}` stands in a recipe without `{wanted}`"));
            return Err(error.key(key).hint(hint));
        }
        (None, true) => {
            let base = base.ok_or_else(|| {
                at.error("the key `base_model` is missing").key("base_model").hint(
                    "name the model that attention, norms, embeddings and tokenizer come from",
                )
            })?;
            (reader.mixture(raw, false)?, base)
        }
        (Some(mixture), true) => (reader.mixture(raw, true)?, mixture),
        (Some(mixture), false) => (reader.surgery(raw, &mixture)?, mixture),
    };
    Ok((layout, base))
}

/// Refuses keys that have no meaning in a recipe of this kind.
fn refuse(sources: &Sources, raw: RawMixture, kind: &str) -> Result<()> {
    let Some((key, place)) = raw.first() else { return Ok(()) };
    let place = sources.locate(place);
    Err(place
        .error(format!("`{key}` has no meaning in a recipe with {kind}"))
        .key(key)
        .hint("remove it"))
}

impl Reader<'_> {
    fn mixture(&self, mut raw: RawMixture, joins: bool) -> Result<Layout> {
        let gates = self.gates(raw.gate_mode.take())?;
        let list = raw.experts.take().map(|list| self.sources.locate(list));
        let list = list.ok_or_else(|| Error::internal("a mixture without experts was read"))?;
        let at = list.map(());
        if list.value.is_empty() {
            return Err(at
                .error("`experts` is empty")
                .key("experts")
                .hint("list a model: `- source_model: MODEL`"));
        }
        let experts = self.experts("experts", list.value)?;
        let shared = match raw.shared_experts.take() {
            Some(_) if joins => {
                let error = at.error("shared experts cannot join a mixture");
                return Err(error.key("shared_experts").hint("remove the key"));
            }
            Some(list) => self.experts("shared_experts", self.sources.locate(list).value)?,
            None => Vec::new(),
        };
        let gate_scale = self.number("gate_scale", raw.gate_scale.take(), f64::MIN_POSITIVE)?;
        let ridge = self.number("gate_ridge", raw.gate_ridge.take(), f64::MIN_POSITIVE)?;
        if let (Some(place), true) = (&ridge, gates.value != GateMode::Ridge) {
            let error = place.error("`gate_ridge` stands beside gates that are no regression");
            return Err(error.key("gate_ridge").hint("remove it, or write `gate_mode: ridge`"));
        }
        let average = match raw.attention.take().map(|word| self.sources.locate(word)) {
            None => false,
            Some(word) => match word.value.as_str() {
                "base" => false,
                "merge" if !joins => true,
                other => {
                    return Err(word
                        .error("the attention of a mixture comes from elsewhere")
                        .key("attention")
                        .expected(if joins { "base" } else { "base or merge" }, other)
                        .hint("`base`: that of base_model; `merge`: the average of the experts'"));
                }
            },
        };
        let chosen = self.chosen(raw.experts_per_token.take())?;
        let architecture = raw.architecture.take().map(|name| self.sources.locate(name));
        if let (Some(name), true) = (&architecture, joins) {
            let error = name.error("an expert that joins a mixture cannot change its family");
            return Err(error.key("architecture").hint("remove the key"));
        }
        refuse(self.sources, raw, "`experts`")?;
        let mixture = Mixture {
            experts,
            shared,
            at,
            joins,
            gates,
            gate_scale: gate_scale.map_or(1.0, |at| at.value),
            ridge: ridge.map_or(GateMode::RIDGE, |at| at.value),
            chosen,
            architecture,
            average,
        };
        self.check_counts(&mixture)?;
        self.check_prompts(&mixture)?;
        Ok(Layout::Mixture(Box::new(mixture)))
    }

    fn gates(&self, raw: Option<At<String>>) -> Result<Located<GateMode>> {
        let Some(word) = raw.map(|word| self.sources.locate(word)) else {
            return Ok(self.sources.locate(At::nowhere(GateMode::HiddenLast)));
        };
        if let Some(mode) = GateMode::parse(&word.value) {
            return Ok(word.map(mode));
        }
        let names = GateMode::NAMES.iter().map(|(name, _)| *name);
        let error = word
            .error(format!("unknown gate mode `{}`", word.value))
            .key("gate_mode")
            .fact("expected", format!("one of {}", names.clone().collect::<Vec<_>>().join(", ")));
        Err(match nearest(&word.value, names) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint("without `gate_mode` it is `hidden`"),
        })
    }

    /// A number that is at least `least`, and in size at most [`MOST`].
    fn number(&self, key: &str, raw: Option<At<f64>>, least: f64) -> Result<Option<Located<f64>>> {
        let Some(number) = raw.map(|number| self.sources.locate(number)) else { return Ok(None) };
        if number.value.abs() <= MOST && number.value >= least {
            return Ok(Some(number));
        }
        let expected = match least {
            least if least == f64::MIN => format!("a number from -{MOST} to {MOST}"),
            0.0 => format!("a number from 0 to {MOST}"),
            _ => format!("a number above 0, up to {MOST}"),
        };
        Err(number.error("a number is out of its range").key(key).expected(expected, number.value))
    }

    fn chosen(&self, raw: Option<At<i64>>) -> Result<Option<Located<usize>>> {
        let Some(number) = raw.map(|number| self.sources.locate(number)) else { return Ok(None) };
        match usize::try_from(number.value) {
            Ok(count) if count > 0 => Ok(Some(number.map(count))),
            _ => Err(number
                .error("a token goes to one expert at least")
                .key("experts_per_token")
                .expected("1 or more", number.value)),
        }
    }

    fn experts(&self, key: &str, raw: Vec<RawExpert>) -> Result<Vec<Expert>> {
        let raw = raw.into_iter().enumerate();
        raw.map(|(i, expert)| self.expert(&format!("{key}[{i}]"), expert)).collect()
    }

    fn expert(&self, key: &str, raw: RawExpert) -> Result<Expert> {
        let model = self.sources.locate(raw.source_model);
        let model = validate::model_reference(&format!("{key}.source_model"), model)?;
        let mut positive: Vec<Texts> = self.prompts(raw.positive_prompts).into_iter().collect();
        if let Some(files) = raw.data {
            positive.extend(files.located(self.sources).into_iter().map(Texts::File));
        }
        for texts in &positive {
            if let Texts::File(file) = texts
                && file.value.trim().is_empty()
            {
                return Err(file.error("a path is empty").key(key).hint("name a file of texts"));
            }
        }
        let noise = self.number(&format!("{key}.noise_scale"), raw.noise_scale, 0.0)?;
        let residual =
            self.number(&format!("{key}.residual_scale"), raw.residual_scale, f64::MIN)?;
        Ok(Expert {
            model,
            positive,
            negative: self.prompts(raw.negative_prompts).into_iter().collect(),
            noise_scale: noise.map(|at| at.value).filter(|scale| *scale != 0.0),
            residual_scale: residual.map(|at| at.value).filter(|scale| *scale != 1.0),
        })
    }

    /// Texts that stand in a list, or in the file of a name.
    fn prompts(&self, raw: Option<At<RawList>>) -> Option<Texts> {
        let raw = self.sources.locate(raw?);
        let at = raw.map(());
        match raw.value {
            RawList::One(file) => Some(Texts::File(at.map(file))),
            RawList::List(texts) if texts.is_empty() => None,
            RawList::List(texts) => {
                Some(Texts::Here(texts.into_iter().map(|text| text.value).collect()))
            }
        }
    }

    fn check_counts(&self, mixture: &Mixture) -> Result<()> {
        let count = mixture.experts.len();
        let Some(chosen) = mixture.chosen.as_ref().filter(|_| !mixture.joins) else {
            let least = 2;
            if count < least && !mixture.joins {
                return Err(mixture
                    .at
                    .error("a mixture has fewer experts than a token goes to")
                    .key("experts")
                    .expected(format!("{least} or more, without `experts_per_token`"), count)
                    .hint("list more experts, or write `experts_per_token: 1`"));
            }
            return Ok(());
        };
        if count >= chosen.value {
            return Ok(());
        }
        Err(chosen
            .error("a mixture has fewer experts than a token goes to")
            .key("experts_per_token")
            .expected(format!("at most {count}, the number of experts"), chosen.value)
            .hint(format!("write `experts_per_token: {count}`, or list more experts")))
    }

    fn check_prompts(&self, mixture: &Mixture) -> Result<()> {
        let (gates, name) = (mixture.gates.value, mixture.gates.value.name());
        if gates.is_random() {
            return Ok(());
        }
        let routed = mixture.experts.iter().enumerate();
        if let Some((i, expert)) = routed.clone().find(|(_, expert)| expert.positive.is_empty()) {
            return Err(expert
                .model
                .error(format!("gates of mode `{name}` need texts for every expert"))
                .key(format!("experts[{i}].positive_prompts"))
                .hint(
                    "add `positive_prompts: [TEXT]` or `data: FILE`, or choose `gate_mode: random`",
                ));
        }
        if let (GateMode::Ridge, Some((i, expert))) =
            (gates, routed.clone().find(|(_, expert)| !expert.negative.is_empty()))
        {
            return Err(expert
                .model
                .error("negative prompts have no place in a regression")
                .key(format!("experts[{i}].negative_prompts"))
                .hint("what is not an expert's is what is another's: remove the key"));
        }
        let alone = |expert: &&Expert| expert.positive.is_empty() && !expert.negative.is_empty();
        if let Some(expert) = mixture.shared.iter().find(alone) {
            return Err(expert
                .model
                .error(
                    "a shared expert has negative prompts alone, which give its gate no direction",
                )
                .key("shared_experts")
                .hint("add `positive_prompts`, or remove `negative_prompts`"));
        }
        let gated = mixture.shared.iter().filter(|expert| !expert.positive.is_empty()).count();
        if gated != 0 && gated != mixture.shared.len() {
            let error =
                mixture.shared[0].model.error("some shared experts have prompts, some none");
            return Err(error.key("shared_experts").hint("give them to all, or to none"));
        }
        let plain = |texts: &[Texts]| {
            let each = texts.iter().flat_map(|texts| match texts {
                Texts::Here(texts) => texts.clone(),
                Texts::File(file) => vec![format!("\0{}", file.value)],
            });
            each.collect::<Vec<_>>()
        };
        let experts = mixture.experts.iter();
        let all: Vec<_> =
            experts.map(|expert| [plain(&expert.positive), plain(&expert.negative)]).collect();
        mixture.distinct(all)
    }

    fn surgery(&self, mut raw: RawMixture, mixture: &Located<String>) -> Result<Layout> {
        let (extract, dropped) = (raw.extract.take(), raw.drop.take());
        let surgery = match (extract, dropped) {
            (Some(take), None) => Surgery::Extract {
                experts: self.take(take)?,
                architecture: raw.architecture.take().map(|name| self.sources.locate(name)),
            },
            (None, Some(dropped)) => Surgery::Drop {
                experts: self.dropped(dropped)?,
                renormalise: raw.renormalise.take().is_none_or(|flag| flag.value),
                chosen: self.chosen(raw.experts_per_token.take())?,
            },
            (None, None) => {
                return Err(mixture
                    .error("a recipe with a mixture does not say what to make of it")
                    .key("mixture")
                    .expected("one of extract, drop, experts", "none")
                    .hint("`extract: 0` takes an expert out, `drop: [0]` leaves one out, `experts` adds some"));
            }
            (Some(_), Some(_)) => {
                return Err(mixture
                    .error("`extract` and `drop` stand in one recipe")
                    .key("drop")
                    .hint("use two stages, or one of the two"));
            }
        };
        refuse(
            self.sources,
            raw,
            match surgery {
                Surgery::Extract { .. } => "`extract`",
                Surgery::Drop { .. } => "`drop`",
            },
        )?;
        Ok(Layout::Surgery(Box::new(surgery)))
    }

    fn take(&self, raw: At<RawExtract>) -> Result<Located<Take>> {
        let raw = self.sources.locate(raw);
        let at = raw.map(());
        let take = match raw.value {
            RawExtract::One(number) => Take::Numbers(vec![number as usize]),
            RawExtract::Several(numbers) => Take::Numbers(distinct(&at, "extract", numbers)?),
            RawExtract::Word(word) => match word.as_str() {
                "all" => Take::All,
                "shared" => Take::Shared,
                _ => {
                    return Err(at
                        .error("no expert has this name")
                        .key("extract")
                        .expected("a number, a list of numbers, all or shared", word));
                }
            },
        };
        Ok(at.map(take))
    }

    fn dropped(&self, raw: At<RawDrop>) -> Result<Located<Dropped>> {
        let raw = self.sources.locate(raw);
        let at = raw.map(());
        let dropped = match raw.value {
            RawDrop::Numbers(numbers) => Dropped::Numbers(distinct(&at, "drop", numbers)?),
            RawDrop::Least(least) => {
                let count = self.sources.locate(least.least_routed);
                if count.value == 0 {
                    let error = count.error("no expert is left out").key("drop.least_routed");
                    return Err(error.expected("1 or more", 0));
                }
                let routing = least.routing.map(|file| file.value);
                Dropped::LeastRouted { count: count.value as usize, routing }
            }
        };
        Ok(at.map(dropped))
    }
}

/// What scales at most: beyond it nothing is left of a model but the scale, and float16 overflows long before.
const MOST: f64 = 1e6;

/// Numbers of experts, none twice.
fn distinct(at: &Located<()>, key: &str, numbers: Vec<u64>) -> Result<Vec<usize>> {
    let mut found: Vec<usize> = Vec::new();
    for number in numbers {
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        if found.contains(&number) {
            return Err(at.error("an expert is named twice").key(key).fact("expert", number));
        }
        found.push(number);
    }
    if found.is_empty() {
        return Err(at.error("no expert is named").key(key).hint("experts are counted from 0"));
    }
    Ok(found)
}
