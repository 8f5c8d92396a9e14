//! From a document to the texts a model is given, as lm-eval 0.4.13 puts them together
//! (`ConfigurableTask.fewshot_context`, `build_qa_turn`).

use super::dataset::{Document, Split, Value, parse_literal};
use super::examples::Examples;
use super::task::{Format, Output, Part, Task};
use super::template::Templates;
use crate::error::{Error, Result};

/// Who says a part of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The description.
    System,
    /// A question.
    User,
    /// An answer.
    Assistant,
}

impl Role {
    /// Its name in chat templates.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// A part of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What.
    pub content: String,
    /// What stands behind it in plain text.
    pub delimiter: String,
}

/// A prompt as plain text.
pub fn plain(messages: &[Message]) -> String {
    messages.iter().flat_map(|message| [message.content.as_str(), &message.delimiter]).collect()
}

/// An item of a task, ready to be asked.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its place in the split.
    pub id: usize,
    /// Its columns.
    pub document: Document,
    /// The prompt; of a task whose choices are texts to go before the same end, one a choice.
    pub prompts: Vec<Vec<Message>>,
    /// What may or must follow.
    pub target: Value,
    /// `doc_to_text` as a number, where it is the right choice.
    pub text_label: Option<i64>,
    /// The choices; empty where a task has none.
    pub choices: Vec<String>,
    /// For each metric of the task, the text whose words and bytes are counted.
    pub counted: Vec<Option<String>>,
    /// For each metric of the task, which choices are true, where it asks for that.
    pub labels: Vec<Option<Vec<bool>>>,
    /// What an answer begins with.
    pub prefix: Option<String>,
}

/// Makes the items of a task.
pub struct Prompts<'a> {
    task: &'a Task,
    templates: Templates,
    /// The columns of the evaluated split, by whose names parts are told from templates.
    columns: &'a [String],
    examples: Examples,
    multiple_inputs: bool,
    /// Whether the first item has several right targets.
    pub multiple_targets: bool,
}

impl<'a> Prompts<'a> {
    /// For a task, the split it is evaluated on and the examples it may be given.
    ///
    /// # Errors
    /// The first item cannot be rendered.
    pub fn new(task: &'a Task, evaluated: &'a Split, examples: Vec<Document>) -> Result<Self> {
        let mut prompts = Self {
            task,
            templates: Templates::default(),
            columns: &evaluated.columns,
            examples: Examples::new(examples, task.fewshot.sampler),
            multiple_inputs: false,
            multiple_targets: false,
        };
        if let Some(first) = evaluated.rows.first() {
            let place = |e: Error| prompts.located(e, 0);
            if task.format.choice.is_some() && task.format.text.is_some() {
                let text = prompts.text(&task.format, first).map_err(place)?;
                prompts.multiple_inputs = matches!(text, Value::Int(_));
            }
            let target = prompts.target(&task.format, first);
            let target = target.map_err(|e| prompts.located(e, 0))?;
            prompts.multiple_targets = matches!(target, Value::List(_));
        }
        Ok(prompts)
    }

    fn located(&self, error: Error, id: usize) -> Error {
        error.fact("task", &self.task.name).fact("item", id).file(&self.task.file)
    }

    /// The item of a document. Items are to be made in order: examples are drawn one after the
    /// other.
    ///
    /// # Errors
    /// A template fails, or gives what does not fit.
    pub fn item(&mut self, id: usize, document: &Document) -> Result<Item> {
        self.try_item(id, document).map_err(|e| self.located(e, id))
    }

    fn try_item(&mut self, id: usize, document: &Document) -> Result<Item> {
        let task = self.task;
        let format = &task.format;
        let prefix = self.prefix(format, document)?;
        let before = self.before(document)?;
        let choices = match &format.choice {
            Some(_) => self.choices(format, document)?,
            None => Vec::new(),
        };
        let target = self.target(format, document)?;
        let text = match &format.text {
            Some(_) => self.text(format, document)?,
            None => Value::Text(String::new()),
        };
        let turn = |question: &str, delimiter: &str| {
            let mut messages = before.clone();
            messages.extend(turn(question, None, prefix.as_deref(), delimiter, ""));
            messages
        };
        let prompts = if self.multiple_inputs {
            choices.iter().map(|choice| turn(choice, "")).collect()
        } else {
            vec![turn(&text.display(), &format.target_delimiter)]
        };
        let text_label = match (&text, self.multiple_inputs) {
            (Value::Int(label), true) => Some(*label),
            _ => None,
        };
        let counted = task.metrics.iter().map(|metric| match &metric.counted {
            Some(source) => self.field(source, document).map(|value| Some(value.display())),
            None => Ok(None),
        });
        let counted = counted.collect::<Result<_>>()?;
        let labels = task.metrics.iter().map(|metric| match &metric.labels {
            Some(source) => self.labels(source, document, choices.len()).map(Some),
            None => Ok(None),
        });
        let labels = labels.collect::<Result<_>>()?;
        let document = document.clone();
        Ok(Item { id, document, prompts, target, text_label, choices, counted, labels, prefix })
    }

    /// Which of `count` choices are true: those whose label is 1.
    fn labels(&self, source: &str, document: &Document, count: usize) -> Result<Vec<bool>> {
        let value = match self.field(source, document)? {
            Value::Text(text) => parse_literal(&text).unwrap_or(Value::Text(text)),
            value => value,
        };
        match &value {
            Value::List(labels) if labels.len() == count => {
                Ok(labels.iter().map(|label| *label == Value::Int(1)).collect())
            }
            other => Err(Error::input("`labels` gives no list of as many labels as choices")
                .key("metric_list")
                .expected(format!("{count} labels"), other.repr())),
        }
    }

    /// Description and examples.
    fn before(&mut self, document: &Document) -> Result<Vec<Message>> {
        let task = self.task;
        let mut messages = Vec::new();
        let description = match task.description.as_str() {
            "" => String::new(),
            source => self.field(source, document)?.display(),
        };
        if !description.is_empty() {
            let delimiter = String::new();
            messages.push(Message { role: Role::System, content: description, delimiter });
        }
        if task.fewshot.count == 0 || task.output == Output::Rolling {
            return Ok(messages);
        }
        // As in lm-eval, an item is kept from its own examples if both come from the test split.
        let same_split = task.fewshot.split == task.test_split;
        let shots = self.examples.sample(task.fewshot.count, same_split.then_some(document))?;
        let format = &task.fewshot.format;
        for shot in &shots {
            let choices = match &format.choice {
                Some(_) => Some(self.choices(format, shot)?),
                None => None,
            };
            let mut question = self.text(format, shot)?;
            let target = self.target(format, shot)?;
            let mut options = choices.as_deref();
            if self.multiple_inputs {
                let label = match &question {
                    Value::Int(label) => *label,
                    _ => return Err(Error::input("an example's text is no choice's number")),
                };
                let choice = options.and_then(|all| pick(all, label)).ok_or_else(no_choice)?;
                question = Value::Text(choice.clone());
                options = None;
            }
            let answer = match (&target, options) {
                (Value::Int(label), Some(all)) => pick(all, *label).ok_or_else(no_choice)?.clone(),
                (Value::Bool(label), Some(all)) => {
                    pick(all, i64::from(*label)).ok_or_else(no_choice)?.clone()
                }
                // Of several right texts an example shows the first; lm-eval refuses numbers here.
                (Value::List(all), _) => match all.first() {
                    Some(Value::Text(text)) => text.clone(),
                    _ => return Err(no_choice()),
                },
                (target, _) => target.display(),
            };
            let prefix = self.prefix(format, shot)?;
            messages.extend(turn(
                &question.display(),
                Some(&answer),
                prefix.as_deref(),
                &format.target_delimiter,
                &format.fewshot_delimiter,
            ));
        }
        Ok(messages)
    }

    /// A column, or a rendered template.
    fn field(&self, source: &str, document: &Document) -> Result<Value> {
        if self.columns.iter().any(|column| column == source)
            && let Some(value) = document.get(source)
        {
            return Ok(value.clone());
        }
        self.templates.render(source, document).map(Value::Text)
    }

    fn prefix(&self, format: &Format, document: &Document) -> Result<Option<String>> {
        let prefix = format.prefix.as_deref().map(|source| self.field(source, document));
        Ok(prefix.transpose()?.map(|value| value.display()).filter(|text| !text.is_empty()))
    }

    /// `doc_to_text`: a text, or the number of a choice.
    fn text(&self, format: &Format, document: &Document) -> Result<Value> {
        match &format.text {
            Some(Part::Value(value)) => Ok(value.clone()),
            Some(Part::Text(source)) => match self.field(source, document)? {
                Value::Text(text) if !self.columns.contains(source) => Ok(self.number(text)),
                value => Ok(value),
            },
            None => Err(Error::input("the task has no `doc_to_text`").key("doc_to_text")),
        }
    }

    /// A rendered text of digits, as a number where the task has choices.
    fn number(&self, text: String) -> Value {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            Ok(number) if digits && self.task.format.choice.is_some() => Value::Int(number),
            _ => Value::Text(text),
        }
    }

    /// `doc_to_target`: a text, the number of a choice, or several of them.
    fn target(&self, format: &Format, document: &Document) -> Result<Value> {
        match &format.target {
            Some(Part::Value(value)) => Ok(value.clone()),
            Some(Part::Text(source)) => match self.field(source, document)? {
                Value::Text(text) if !self.columns.contains(source) => {
                    if text.len() >= 2 && text.starts_with('[') && text.ends_with(']') {
                        return Ok(parse_literal(&text).unwrap_or(Value::Text(text)));
                    }
                    Ok(self.number(text))
                }
                value => Ok(value),
            },
            None => Err(Error::input("the task has no `doc_to_target`").key("doc_to_target")),
        }
    }

    /// `doc_to_choice`: a list of texts.
    fn choices(&self, format: &Format, document: &Document) -> Result<Vec<String>> {
        let value = match &format.choice {
            Some(Part::Value(value)) => value.clone(),
            Some(Part::Text(source)) => match self.field(source, document)? {
                Value::Text(text) if !self.columns.contains(source) => {
                    parse_literal(&text).ok_or_else(|| not_a_list(&text))?
                }
                value => value,
            },
            None => Value::Null,
        };
        match value {
            Value::List(choices) if !choices.is_empty() => {
                Ok(choices.iter().map(Value::display).collect())
            }
            other => Err(not_a_list(&other.repr())),
        }
    }
}

fn not_a_list(found: &str) -> Error {
    Error::input("`doc_to_choice` gives no list of choices")
        .key("doc_to_choice")
        .expected("a list such as ['yes', 'no']", found)
        .hint("a template's text is read as a Python list")
}

fn no_choice() -> Error {
    Error::input("an example's target is not the number of a choice").key("doc_to_target")
}

/// The item of a list by Python's index.
fn pick(choices: &[String], index: i64) -> Option<&String> {
    let length = i64::try_from(choices.len()).ok()?;
    choices.get(usize::try_from(if index < 0 { index + length } else { index }).ok()?)
}

/// A question with its answer, if that is given.
fn turn(
    question: &str,
    answer: Option<&str>,
    prefix: Option<&str>,
    target_delimiter: &str,
    fewshot_delimiter: &str,
) -> Vec<Message> {
    let answer = answer.filter(|answer| !answer.is_empty());
    let delimited = match (answer, prefix) {
        (Some(_), None) => true,
        (_, Some(prefix)) => !question.is_empty() && !meets_blank(question, prefix),
        (None, None) => false,
    };
    let delimiter = if delimited { target_delimiter } else { "" };
    let message = |role: Role, content: &str, delimiter: &str| Message {
        role,
        content: content.to_string(),
        delimiter: delimiter.to_string(),
    };
    let mut messages = vec![message(Role::User, question, delimiter)];
    match (answer, prefix) {
        (Some(answer), None) => {
            messages.push(message(Role::Assistant, answer, fewshot_delimiter));
        }
        (Some(answer), Some(prefix)) => {
            let between = if meets_blank(prefix, answer) { "" } else { " " };
            let answer = format!("{prefix}{between}{answer}");
            messages.push(message(Role::Assistant, &answer, fewshot_delimiter));
        }
        (None, Some(prefix)) => messages.push(message(Role::Assistant, prefix, "")),
        (None, None) => {}
    }
    messages
}

/// Whether there is a blank where two texts meet.
pub(super) fn meets_blank(before: &str, after: &str) -> bool {
    before.ends_with(is_blank) || after.starts_with(is_blank)
}

/// Python's `str.isspace` of a character.
pub(crate) fn is_blank(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}
