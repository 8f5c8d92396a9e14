//! What the environment says about the Hub, under the names the Hugging Face tools use:
//! <https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables>.

use crate::error::{Error, Result};
use std::path::PathBuf;
use std::time::Duration;

/// Where the Hub is, where its files are kept, and who asks.
#[derive(Clone)]
pub struct Settings {
    /// The Hub's address, without a slash at the end (`HF_ENDPOINT`).
    pub endpoint: String,
    /// The cache's folder (`HF_HUB_CACHE`, or `hub` in `HF_HOME`).
    pub cache: PathBuf,
    /// The access token (`HF_TOKEN`, or the token file that `hf auth login` writes).
    pub token: Option<String>,
    /// No request is made (`HF_HUB_OFFLINE`).
    pub offline: bool,
    /// The wait before a failed request is made again; doubled each time.
    pub retry_wait: Duration,
}

impl Settings {
    /// The settings of this process's environment.
    ///
    /// # Errors
    /// There is no home folder, or the token cannot be sent.
    pub fn from_env() -> Result<Self> {
        let home = std::env::home_dir();
        Self::from(|name| std::env::var(name).ok(), home)
    }

    fn from(variable: impl Fn(&str) -> Option<String>, home: Option<PathBuf>) -> Result<Self> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let path = |text: String| match (text.strip_prefix("~/"), &home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => PathBuf::from(text),
        };
        let hf_home = match (variable("HF_HOME"), variable("XDG_CACHE_HOME"), &home) {
            (Some(folder), _, _) => path(folder),
            (None, Some(folder), _) => path(folder).join("huggingface"),
            (None, None, Some(home)) => home.join(".cache").join("huggingface"),
            (None, None, None) => {
                return Err(Error::input("there is no home folder to keep models of the Hub in")
                    .hint("set HF_HOME to a folder"));
            }
        };
        let cache = variable("HF_HUB_CACHE").or_else(|| variable("HUGGINGFACE_HUB_CACHE"));
        let is_set = |name: &str| {
            let value = variable(name).unwrap_or_default().to_ascii_uppercase();
            ["1", "ON", "YES", "TRUE"].contains(&value.as_str())
        };
        let token = || {
            if is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
                return None;
            }
            let file = variable("HF_TOKEN_PATH").map_or_else(|| hf_home.join("token"), path);
            variable("HF_TOKEN")
                .or_else(|| variable("HUGGING_FACE_HUB_TOKEN"))
                .or_else(|| std::fs::read_to_string(file).ok())
                .map(|token| token.trim().to_string())
                .filter(|token| !token.is_empty())
        };
        let token = token();
        if token.as_ref().is_some_and(|token| !token.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(Error::input("the Hub's token holds characters that no token has")
                .hint("check HF_TOKEN, or log in again with `hf auth login`"));
        }
        let endpoint = variable("HF_ENDPOINT");
        let endpoint = endpoint.unwrap_or_else(|| "https://huggingface.co".to_string());
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').to_string(),
            cache: cache.map_or_else(|| hf_home.join("hub"), path),
            token,
            offline: is_set("HF_HUB_OFFLINE") || is_set("TRANSFORMERS_OFFLINE"),
            retry_wait: Duration::from_millis(500),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Settings> {
        let find = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.to_string())
        };
        Settings::from(find, Some(PathBuf::from("/home/me")))
    }

    #[test]
    fn the_cache_is_where_other_tools_have_it() {
        let cache = |variables: &[_]| of(variables).unwrap().cache.display().to_string();
        assert_eq!(cache(&[]), "/home/me/.cache/huggingface/hub");
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/x")]), "/x/huggingface/hub");
        assert_eq!(cache(&[("HF_HOME", "~/hf"), ("XDG_CACHE_HOME", "/x")]), "/home/me/hf/hub");
        assert_eq!(cache(&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/c")]), "/c");
        assert_eq!(cache(&[("HF_HOME", "")]), "/home/me/.cache/huggingface/hub");
    }

    #[test]
    fn tokens_come_from_the_variable_or_the_file() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), " hf_file\n").unwrap();
        let folder = home.path().to_str().unwrap();
        let token = |variables: &[_]| of(variables).unwrap().token;
        assert_eq!(token(&[("HF_HOME", folder)]).as_deref(), Some("hf_file"));
        let both = [("HF_HOME", folder), ("HF_TOKEN", "hf_variable")];
        assert_eq!(token(&both).as_deref(), Some("hf_variable"));
        let refused = [("HF_HOME", folder), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")];
        assert_eq!(token(&refused), None);
        let error = of(&[("HF_TOKEN", "hf_a\nX-Evil: 1")]).err().unwrap();
        assert!(!error.to_string().contains("Evil"), "{error}");
    }

    #[test]
    fn endpoint_and_offline() {
        let settings = of(&[("HF_ENDPOINT", "http://hub.example/"), ("HF_HUB_OFFLINE", "true")]);
        let settings = settings.unwrap();
        assert_eq!((settings.endpoint.as_str(), settings.offline), ("http://hub.example", true));
        assert!(!of(&[("HF_HUB_OFFLINE", "0")]).unwrap().offline);
    }
}
