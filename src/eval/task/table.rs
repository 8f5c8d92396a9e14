//! Files that hold a table of tasks: settings once, and a row for each task with what differs.
//!
//! lm-eval writes such families as one file a task. Here, `${NAME}` in the settings stands for a value
//! of the row, or of `variables`; a text that is nothing but `${NAME}` becomes the value itself, of
//! whatever type. What a row calls like a key of a task also is that key.

use super::settings::{Setting, Settings, is_key};
use crate::error::{Error, Result};
use serde_json::{Map, Value as Json};

/// Values within values that are filled in at most.
const MAX_DEPTH: usize = 8;

/// The settings of each task of a file: its own, or those of the rows of its `table`.
pub(super) fn tasks(mut settings: Settings) -> Result<Vec<Settings>> {
    let variables = settings.take("variables");
    let Some(table) = settings.take("table") else {
        return match variables {
            None => Ok(vec![settings]),
            Some(setting) => Err(setting
                .error("`variables` stands in a file without a `table`")
                .hint("`variables` and the rows of `table` fill in `${NAME}`")),
        };
    };
    let variables = match &variables {
        Some(setting) => setting.map()?.clone(),
        None => Map::new(),
    };
    let rows = table.maps()?;
    if rows.is_empty() {
        return Err(table.error("`table` has no rows"));
    }
    rows.into_iter().map(|row| filled(&settings, &table, &variables, row)).collect()
}

/// The settings of one row.
fn filled(
    settings: &Settings,
    table: &Setting,
    variables: &Map<String, Json>,
    row: &Map<String, Json>,
) -> Result<Settings> {
    let mut scope = variables.clone();
    scope.extend(row.clone());
    let own = row.iter().filter(|(key, _)| is_key(key)).map(|(key, value)| Setting {
        key: key.clone(),
        value: value.clone(),
        place: table.place.clone(),
        folder: table.folder.clone(),
    });
    let mut task = settings.clone();
    task.lay_over(own.collect::<Vec<_>>());
    for setting in &mut task.all {
        let value = fill(&setting.value, &scope, 0);
        setting.value = value.map_err(|e| e.fact("file", &setting.place).key(&setting.key))?;
    }
    Ok(task)
}

/// A value with every `${NAME}` in it replaced.
fn fill(value: &Json, scope: &Map<String, Json>, depth: usize) -> Result<Json> {
    if depth > MAX_DEPTH {
        return Err(Error::input("values of a table hold each other in a circle"));
    }
    Ok(match value {
        Json::Array(items) => {
            items.iter().map(|item| fill(item, scope, depth)).collect::<Result<_>>()?
        }
        Json::Object(map) => {
            let entry =
                |(key, value): (&String, &Json)| Ok((key.clone(), fill(value, scope, depth)?));
            Json::Object(map.iter().map(entry).collect::<Result<_>>()?)
        }
        Json::String(text) => fill_text(text, scope, depth)?,
        other => other.clone(),
    })
}

fn fill_text(text: &str, scope: &Map<String, Json>, depth: usize) -> Result<Json> {
    let find = |name: &str| {
        let value = scope.get(name).ok_or_else(|| {
            Error::input(format!("neither the row nor `variables` has `{name}`"))
                .fact("found", format!("${{{name}}}"))
        })?;
        fill(value, scope, depth + 1)
    };
    let whole = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    if let Some(name) = whole.filter(|name| !name.contains(['$', '{', '}'])) {
        return find(name);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, from)) = rest.split_once("${") {
        let Some((name, behind)) = from.split_once('}') else {
            break;
        };
        out.push_str(before);
        match find(name)? {
            Json::String(text) => out.push_str(&text),
            Json::Number(number) => out.push_str(&number.to_string()),
            other => {
                return Err(Error::input(format!("`{name}` is no text, and stands within one"))
                    .expected("a text or a number", other));
            }
        }
        rest = behind;
    }
    out.push_str(rest);
    Ok(Json::String(out))
}
