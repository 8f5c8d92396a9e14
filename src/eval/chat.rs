//! Prompts in a model's chat template, as lm-eval 0.4.13 and transformers 5.23 render them.

use super::encode::TextEncoder;
use super::prompt::{Message, Role, is_blank};
use super::template::Templates;
use crate::error::{Error, Result};

/// Stands behind an unfinished message while it is rendered, to be found again. The blank shows whether
/// a template trims texts.
const END: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// Renders a prompt with the model's chat template: the description as the system's message, what an
/// answer begins with as the model's unfinished one. With `multiturn` an example is a question of the
/// user and an answer of the model, else all of them and the question are one message of the user.
///
/// A template that takes no system message is rendered without it, as in lm-eval; [`refuses_system`]
/// tells.
///
/// # Errors
/// The model has no chat template, or it cannot be rendered.
pub fn rendered(encoder: &TextEncoder, messages: &[Message], multiturn: bool) -> Result<String> {
    let template = template(encoder)?;
    let turns = if multiturn { turns(messages) } else { one_turn(messages) };
    render(encoder, template, &turns).or_else(|e| {
        let rest: Vec<Turn> =
            turns.iter().filter(|turn| turn.role != Role::System).cloned().collect();
        if rest.len() == turns.len() {
            return Err(e);
        }
        render(encoder, template, &rest)
    })
}

/// Whether the model's chat template fails on a system message, so that descriptions and system
/// instructions are left out of its prompts.
///
/// # Errors
/// The model has no chat template, or it cannot be rendered at all.
pub fn refuses_system(encoder: &TextEncoder) -> Result<bool> {
    let template = template(encoder)?;
    let turn = |role| Turn { role, content: "a".to_string() };
    render(encoder, template, &[turn(Role::User)])?;
    Ok(render(encoder, template, &[turn(Role::System), turn(Role::User)]).is_err())
}

fn template(encoder: &TextEncoder) -> Result<&str> {
    encoder.chat_template().ok_or_else(|| {
        Error::input("the model has no chat template")
            .hint("leave `--apply-chat-template` out for a model that was not trained with one")
    })
}

/// A message as templates see it.
#[derive(Clone)]
struct Turn {
    role: Role,
    content: String,
}

fn turns(messages: &[Message]) -> Vec<Turn> {
    let turn = |message: &Message| Turn { role: message.role, content: message.content.clone() };
    messages.iter().map(turn).collect()
}

/// The system's message, everything else as the user's, and the model's unfinished one.
fn one_turn(messages: &[Message]) -> Vec<Turn> {
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
    let question = Turn { role: Role::User, content: question };
    let around = |message: Option<&Message>| turns(message.map_or(&[], std::slice::from_ref));
    [around(system), vec![question], around(begun)].concat()
}

fn render(encoder: &TextEncoder, template: &str, turns: &[Turn]) -> Result<String> {
    let begun = turns.last().filter(|turn| turn.role == Role::Assistant);
    let value = |(i, turn): (usize, &Turn)| {
        let end = if begun.is_some() && i + 1 == turns.len() { END } else { "" };
        minijinja::Value::from_pairs([
            ("role", turn.role.name().to_string()),
            ("content", format!("{}{end}", turn.content)),
        ])
    };
    let messages: Vec<minijinja::Value> = turns.iter().enumerate().map(value).collect();
    let (bos, eos) = encoder.special();
    let mut values: Vec<(&str, minijinja::Value)> = vec![
        ("messages", messages.into()),
        ("tools", ().into()),
        ("documents", ().into()),
        ("add_generation_prompt", begun.is_none().into()),
    ];
    values.extend(bos.map(|bos| ("bos_token", bos.into())));
    values.extend(eos.map(|eos| ("eos_token", eos.into())));
    let values = minijinja::Value::from_pairs(values);
    let mut text = Templates::for_chats().render_with(&without_marks(template), values)?;
    let Some(begun) = begun else {
        return Ok(text);
    };
    // What stands behind the unfinished message is cut off.
    let end = text.rfind(END.trim_end()).filter(|_| text.contains(begun.content.trim()));
    let end = end.ok_or_else(|| {
        Error::input("the chat template changes what an answer begins with").key("gen_prefix")
    })?;
    let whole = text[end..].starts_with(END);
    text.truncate(end);
    if !whole {
        text.truncate(text.trim_end_matches(is_blank).len());
    }
    Ok(text)
}

/// Transformers has a block `generation` of its own, which marks what the model says; it renders what
/// is in it.
fn without_marks(template: &str) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, from)) = rest.split_once("{%") {
        out.push_str(before);
        out.push_str("{%");
        rest = from;
        let Some((tag, behind)) = from.split_once("%}") else {
            continue;
        };
        let name = tag.trim_matches(['-', '+']).trim();
        let block = match name {
            "generation" => "if true",
            "endgeneration" => "endif",
            _ => continue,
        };
        out.push_str(&tag.replace(name, &format!(" {block} ")));
        out.push_str("%}");
        rest = behind;
    }
    out.push_str(rest);
    out
}
