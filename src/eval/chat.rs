//! Prompts in a model's chat template.

use super::encode::TextEncoder;
use super::prompt::{Message, Role};
use super::template::Templates;
use crate::error::{Error, Result};

/// Renders a prompt with the model's chat template, as lm-eval does without
/// `fewshot_as_multiturn`: the description as the system's message, examples and question as one
/// message of the user, and what an answer begins with as the model's unfinished one.
///
/// # Errors
/// The model has no chat template, or it cannot be rendered.
pub fn rendered(encoder: &TextEncoder, messages: &[Message]) -> Result<String> {
    let template = encoder.chat_template().ok_or_else(|| {
        Error::input("the model has no chat template")
            .hint("leave `--apply-chat-template` out for a model that was not trained with one")
    })?;
    let (system, mut rest) = match messages.split_first() {
        Some((first, rest)) if first.role == Role::System => (Some(first), rest),
        _ => (None, messages),
    };
    let mut begun = None;
    if let Some((last, before)) = rest.split_last()
        && last.role == Role::Assistant
    {
        begun = Some(last);
        rest = before;
    }
    let mut question = String::new();
    for (i, message) in rest.iter().enumerate() {
        question.push_str(&message.content);
        if i + 1 < rest.len() {
            question.push_str(&message.delimiter);
        }
    }
    let message = |role: Role, content: &str| {
        minijinja::Value::from_pairs([("role", role.name()), ("content", content)])
    };
    let mut all: Vec<minijinja::Value> =
        system.iter().map(|system| message(Role::System, &system.content)).collect();
    all.push(message(Role::User, &question));
    let (bos, eos) = encoder.special();
    let values = |messages: Vec<minijinja::Value>, prompt: bool| {
        minijinja::Value::from_pairs([
            ("messages", minijinja::Value::from(messages)),
            ("add_generation_prompt", prompt.into()),
            ("bos_token", bos.unwrap_or_default().into()),
            ("eos_token", eos.unwrap_or_default().into()),
        ])
    };
    let templates = Templates::for_chats();
    let Some(begun) = begun else {
        return templates.render_with(template, values(all, true));
    };
    // The unfinished message is rendered as a whole one, and what follows its text cut off.
    all.push(message(Role::Assistant, &begun.content));
    let text = templates.render_with(template, values(all, false))?;
    let content = begun.content.trim();
    let end = text.rfind(content).map(|at| at + content.len()).ok_or_else(|| {
        Error::input("the chat template changes what an answer begins with").key("gen_prefix")
    })?;
    Ok(text[..end].to_string())
}
