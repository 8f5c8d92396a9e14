//! A mapping within a setting, read key by key.

use super::settings::Setting;
use crate::error::{Error, Result, nearest};
use crate::eval::pattern::Pattern;
use serde_json::{Map, Value as Json};

/// A mapping within a setting, whose keys are taken out one by one; what is left is unknown.
pub(super) struct Options<'a> {
    pub(super) setting: &'a Setting,
    path: String,
    map: Map<String, Json>,
}

impl<'a> Options<'a> {
    pub(super) fn new(setting: &'a Setting, path: String, map: &Map<String, Json>) -> Self {
        Self { setting, path, map: map.clone() }
    }

    pub(super) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }

    pub(super) fn wrong(&self, name: &str, expected: &str, found: &Json) -> Error {
        self.setting
            .error_at(&self.key(name), format!("the value of `{name}` has the wrong type"))
            .expected(expected, found)
    }

    pub(super) fn take<T>(
        &mut self,
        name: &str,
        expected: &str,
        read: impl Fn(&Json) -> Option<T>,
    ) -> Result<Option<T>> {
        match self.map.remove(name) {
            None | Some(Json::Null) => Ok(None),
            Some(value) => match read(&value) {
                Some(read) => Ok(Some(read)),
                None => Err(self.wrong(name, expected, &value)),
            },
        }
    }

    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>> {
        self.take(name, "a text", |value| value.as_str().map(ToString::to_string))
    }

    pub(super) fn flag(&mut self, name: &str) -> Result<Option<bool>> {
        self.take(name, "true or false", |value| match value {
            Json::String(text) if ["true", "yes", "on"].contains(&text.to_lowercase().as_str()) => {
                Some(true)
            }
            Json::String(text)
                if ["false", "no", "off"].contains(&text.to_lowercase().as_str()) =>
            {
                Some(false)
            }
            value => value.as_bool(),
        })
    }

    pub(super) fn whole(&mut self, name: &str) -> Result<Option<i64>> {
        self.take(name, "a whole number", Json::as_i64)
    }

    pub(super) fn number(&mut self, name: &str) -> Result<Option<f64>> {
        self.take(name, "a number", |value| match value {
            Json::String(text) => text.trim().parse().ok(),
            value => value.as_f64(),
        })
    }

    pub(super) fn texts(&mut self, name: &str) -> Result<Option<Vec<String>>> {
        self.take(name, "a list of texts", |value| match value {
            Json::String(text) => Some(vec![text.clone()]),
            Json::Array(items) => {
                items.iter().map(|item| item.as_str().map(ToString::to_string)).collect()
            }
            _ => None,
        })
    }

    pub(super) fn patterns(&mut self, name: &str) -> Result<Vec<Pattern>> {
        let texts = self.texts(name)?.unwrap_or_default();
        texts.iter().map(|text| self.pattern(name, text)).collect()
    }

    pub(super) fn pattern(&self, name: &str, text: &str) -> Result<Pattern> {
        Pattern::new(text).map_err(|e| e.fact("file", &self.setting.place).key(self.key(name)))
    }

    /// Refuses what has not been taken.
    pub(super) fn finish(self, known: &[&str]) -> Result<()> {
        let Some(name) = self.map.keys().next() else {
            return Ok(());
        };
        let unknown = self
            .setting
            .error_at(&self.key(name), format!("unknown key `{name}`"))
            .fact("expected", format!("one of {}", known.join(", ")));
        Err(match nearest(name, known.iter().copied()) {
            Some(near) => unknown.hint(format!("did you mean `{near}`?")),
            None => unknown,
        })
    }
}
