//! Chat templates: the built-in ones, those of models, and the check that a text is one.
//!
//! The formats of the built-in ones are those their families document: ChatML (OpenAI's
//! `<|im_start|>` format), Llama 3 (`<|start_header_id|>`), Mistral (`[INST]`), Alpaca
//! (`### Instruction:`), EXAONE (`[|user|]`).

use super::settings::TokenizerSettingsFile;
use crate::error::{Error, Result};
use std::path::Path;

/// The file transformers reads a chat template from, before `tokenizer_config.json`.
const FILE: &str = "chat_template.jinja";

/// A template with a name.
const BUILT_IN: [(&str, &str); 5] = [
    ("alpaca", include_str!("templates/alpaca.jinja")),
    ("chatml", include_str!("templates/chatml.jinja")),
    ("exaone", include_str!("templates/exaone.jinja")),
    ("llama3", include_str!("templates/llama3.jinja")),
    ("mistral", include_str!("templates/mistral.jinja")),
];

/// What a recipe's `chat_template` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChatTemplate {
    /// The most common one of the models.
    Auto,
    /// This text.
    Text(String),
}

impl ChatTemplate {
    /// The words that `chat_template` may be.
    pub(crate) fn names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name).chain(["auto"])
    }

    /// Reads the value of `chat_template`: `auto`, a built-in name, or Jinja text.
    ///
    /// # Errors
    /// It is none of them.
    pub(crate) fn parse(value: &str) -> Result<Self> {
        if value == "auto" {
            return Ok(Self::Auto);
        }
        if let Some((_, text)) = BUILT_IN.iter().find(|(name, _)| *name == value) {
            return Ok(Self::Text((*text).to_string()));
        }
        let names = Self::names;
        if !value.contains('{') {
            let all = names().collect::<Vec<_>>().join(", ");
            let error = Error::input("unknown chat template")
                .key("chat_template")
                .expected(format!("one of {all}, or the text of a Jinja template"), value);
            return Err(match crate::error::nearest(value, names()) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error,
            });
        }
        check(value)?;
        Ok(Self::Text(value.to_string()))
    }
}

/// Whether a text parses as a Jinja template. Nothing is rendered.
fn check(text: &str) -> Result<()> {
    // Transformers has a block of its own, which marks what the assistant says.
    let text = ["generation", "endgeneration"].iter().fold(text.to_string(), |text, tag| {
        let spellings = ["{%", "{%-"].iter().flat_map(|open| {
            ["%}", "-%}"].iter().map(move |close| format!("{open} {tag} {close}"))
        });
        spellings.fold(text, |text, block| text.replace(&block, ""))
    });
    let mut environment = minijinja::Environment::new();
    let parsed = environment.add_template_owned("chat_template", text);
    parsed.map_err(|e| {
        let error = Error::input("the chat template is not a Jinja template")
            .key("chat_template")
            .fact("reason", e.detail().map_or(e.kind().to_string(), str::to_string));
        match e.line() {
            Some(line) => error.fact("line", format!("{line} of the template")),
            None => error,
        }
    })
}

/// The chat template of a model folder; none where it has none.
///
/// # Errors
/// Its files cannot be read.
pub(crate) fn chat_template(folder: &Path) -> Result<Option<String>> {
    const MAX_BYTES: u64 = 4 << 20;
    let path = folder.join(FILE);
    match std::fs::metadata(&path) {
        Ok(metadata) if metadata.len() > MAX_BYTES => {
            Err(Error::input("a chat template is too large")
                .file(&path)
                .expected(format!("at most {MAX_BYTES} bytes"), metadata.len()))
        }
        Ok(_) => {
            let text = std::fs::read_to_string(&path)
                .map_err(|e| Error::io("read the chat template", &path, &e))?;
            Ok(Some(text))
        }
        Err(_) => {
            let settings = TokenizerSettingsFile::open(folder)?;
            Ok(settings.chat_template().map(str::to_string))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_templates_parse() {
        for (name, text) in BUILT_IN {
            check(text).unwrap();
            assert_eq!(ChatTemplate::parse(name).unwrap(), ChatTemplate::Text(text.to_string()));
        }
        assert_eq!(ChatTemplate::parse("auto").unwrap(), ChatTemplate::Auto);
    }

    #[test]
    fn what_is_no_template_is_refused() {
        let error = ChatTemplate::parse("chatlm").unwrap_err();
        assert_eq!(error.hint_text(), Some("did you mean `chatml`?"));
        let error = ChatTemplate::parse("{% for m in messages %}{{ m }}").unwrap_err();
        assert_eq!(error.message(), "the chat template is not a Jinja template");
        ChatTemplate::parse("{% for m in messages %}{%- generation -%}{{ m.content.strip() }}{%- endgeneration -%}{% if loop.last %}{% break %}{% endif %}{% endfor %}").unwrap();
    }
}
