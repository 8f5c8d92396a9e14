//! Tasks by name: the built-in ones, those of folders, and files.

use super::settings::{Setting, Settings};
use super::{Group, Selected, Task, check, group};
use crate::error::{Error, Result, list, nearest};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The task files that are part of the program.
pub const BUILT_IN: &[(&str, &str)] = &[
    ("arc_challenge.yaml", include_str!("../tasks/arc_challenge.yaml")),
    ("arc_easy.yaml", include_str!("../tasks/arc_easy.yaml")),
    ("boolq.yaml", include_str!("../tasks/boolq.yaml")),
    ("gsm8k.yaml", include_str!("../tasks/gsm8k.yaml")),
    ("hellaswag.yaml", include_str!("../tasks/hellaswag.yaml")),
    ("lambada_openai.yaml", include_str!("../tasks/lambada_openai.yaml")),
    ("openbookqa.yaml", include_str!("../tasks/openbookqa.yaml")),
    ("piqa.yaml", include_str!("../tasks/piqa.yaml")),
    ("wikitext.yaml", include_str!("../tasks/wikitext.yaml")),
    ("winogrande.yaml", include_str!("../tasks/winogrande.yaml")),
];

/// Stands for the folder of the built-in files.
const BUILT_IN_FOLDER: &str = "(built in)";

/// Folders within folders that are searched for task files at most.
const MAX_DEPTH: usize = 8;

/// Groups within groups at most.
const MAX_GROUPS: usize = 16;

/// A task or group that is known by name.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its file.
    pub file: PathBuf,
    /// Whether it is a group.
    pub group: bool,
    /// The tags it has.
    pub tags: Vec<String>,
    /// Why it cannot be used, where that is so.
    pub broken: Option<Error>,
}

/// All tasks that are known by name.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    entries: BTreeMap<String, Entry>,
}

impl Catalog {
    /// The built-in tasks.
    pub fn built_in() -> Self {
        let mut catalog = Self::default();
        for (name, _) in BUILT_IN {
            catalog.add(&Path::new(BUILT_IN_FOLDER).join(name));
        }
        catalog
    }

    /// Adds the tasks of a folder and the folders in it. A file that cannot be used is an error only
    /// when its task is asked for.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn add_folder(&mut self, folder: &Path) -> Result<()> {
        std::fs::read_dir(folder).map_err(|e| Error::io("read the folder of tasks", folder, &e))?;
        let mut folders = vec![(folder.to_path_buf(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
            let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
            paths.sort();
            for path in paths {
                let yaml = path.extension().is_some_and(|end| end == "yaml" || end == "yml");
                if path.is_dir() && depth < MAX_DEPTH {
                    folders.push((path, depth + 1));
                } else if yaml && path.is_file() {
                    self.add(&path);
                }
            }
        }
        Ok(())
    }

    /// Adds the task or group of a file, if it holds one: a file without either is one that others
    /// include.
    fn add(&mut self, file: &Path) {
        let (name, group, tags, broken) = match read(file) {
            Ok(settings) => {
                let is_group = group::is_group(&settings);
                let key = if is_group { "group" } else { "task" };
                let Some(Json::String(name)) = settings.get(key).map(|name| name.value.clone())
                else {
                    return;
                };
                let tags = ["tag", "group"].iter().filter(|_| !is_group);
                let tags =
                    tags.filter_map(|key| settings.get(key)?.texts().ok()).flatten().collect();
                (name, is_group, tags, None)
            }
            Err(e) => {
                let text = text(file).unwrap_or_default();
                let named = text.lines().find_map(|line| {
                    line.strip_prefix("task:").or(line.strip_prefix("group:")).map(str::trim)
                });
                let named = named.map(|name| name.trim_matches(['"', '\'']).to_string());
                let Some(name) = named.filter(|name| !name.is_empty()) else {
                    return;
                };
                (name, false, Vec::new(), Some(e))
            }
        };
        let entry = Entry { name: name.clone(), file: file.to_path_buf(), group, tags, broken };
        self.entries.insert(name, entry);
    }

    /// The tasks and groups, by name.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Finds what `--task` asks for: a task, a group or a tag by name, or a file.
    ///
    /// # Errors
    /// Nothing is called so, or what is called so cannot be used.
    pub fn select(&self, name: &str) -> Result<Vec<Selected>> {
        let path = Path::new(name);
        let yaml = path.extension().is_some_and(|end| end == "yaml" || end == "yml");
        if yaml {
            if !path.is_file() {
                return Err(Error::input("the task file is not there").file(path));
            }
            let mut catalog = self.clone();
            if let Some(folder) = path.parent() {
                let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
                let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
                for beside in entries.map(|entry| entry.path()) {
                    let yaml = beside.extension().is_some_and(|end| end == "yaml" || end == "yml");
                    if yaml && beside != path {
                        catalog.add(&beside);
                    }
                }
            }
            return Ok(vec![catalog.resolve(&read(path)?, &[], 0)?]);
        }
        self.named(name, &[], 0)
    }

    fn named(&self, name: &str, over: &[Setting], depth: usize) -> Result<Vec<Selected>> {
        if let Some(entry) = self.entries.get(name) {
            if let Some(broken) = &entry.broken {
                return Err(broken.clone());
            }
            return Ok(vec![self.resolve(&read(&entry.file)?, over, depth)?]);
        }
        let tagged = self.entries.values().filter(|entry| entry.tags.iter().any(|tag| tag == name));
        let tagged: Vec<Selected> = tagged
            .map(|entry| self.named(&entry.name, over, depth + 1))
            .collect::<Result<Vec<_>>>()?
            .concat();
        if tagged.is_empty() {
            return Err(self.unknown(name));
        }
        Ok(tagged)
    }

    fn unknown(&self, name: &str) -> Error {
        let error = Error::input(format!("unknown task `{name}`"));
        match nearest(name, self.entries.keys().map(String::as_str)) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error
                .fact("known", list(self.entries.keys().map(String::as_str)))
                .hint("`cognate tasks` lists them; a task file's name ends in .yml or .yaml"),
        }
    }

    /// A task or group from settings, with others laid over them.
    fn resolve(&self, settings: &Settings, over: &[Setting], depth: usize) -> Result<Selected> {
        if !group::is_group(settings) {
            let mut settings = settings.clone();
            settings.lay_over(over.iter().cloned());
            return Ok(Selected::Task(Box::new(check::task(&settings)?)));
        }
        if depth > MAX_GROUPS {
            return Err(Error::input("groups hold each other in a circle").file(&settings.file));
        }
        let name = settings.get("group").map(Setting::text).transpose()?.unwrap_or_default();
        let mut shared = group::for_members(settings);
        shared.retain(|setting| over.iter().all(|upper| upper.key != setting.key));
        shared.extend(over.iter().cloned());
        let Some(members) = settings.get("task") else {
            return Err(Error::input("a group has no members").file(&settings.file).key("task"));
        };
        let mut found = Vec::new();
        for member in members.value.as_array().into_iter().flatten() {
            found.extend(self.member(&name, settings, members, member, &shared, depth)?);
        }
        Ok(Selected::Group(Group { name, metrics: group::metrics(settings)?, members: found }))
    }

    /// A member of a group: a name, or a mapping with a name and what is to be different.
    fn member(
        &self,
        group: &str,
        settings: &Settings,
        members: &Setting,
        member: &Json,
        shared: &[Setting],
        depth: usize,
    ) -> Result<Vec<Selected>> {
        let map = match member {
            Json::String(name) => {
                return self
                    .named(name, shared, depth + 1)
                    .map_err(|e| e.fact("place", &members.place));
            }
            Json::Object(map) => map,
            other => {
                return Err(members
                    .error("a member of a group has the wrong type")
                    .expected("a name or a mapping", other));
            }
        };
        let own = map.iter().filter(|(key, _)| !["task", "group"].contains(&key.as_str()));
        let own = own.map(|(key, value)| Setting {
            key: key.clone(),
            value: value.clone(),
            place: members.place.clone(),
            folder: members.folder.clone(),
        });
        let mut over: Vec<Setting> = shared.to_vec();
        for setting in own {
            over.retain(|known| known.key != setting.key);
            over.push(setting);
        }
        let inline = |key: &str, value: Json| Setting {
            key: key.to_string(),
            value,
            place: members.place.clone(),
            folder: members.folder.clone(),
        };
        let named = |key: &str| map.get(key).and_then(Json::as_str);
        match (named("group"), named("task")) {
            (Some(name), _) if self.entries.contains_key(name) => {
                self.named(name, &over, depth + 1)
            }
            (Some(name), _) => {
                let all = map.iter().filter(|(key, _)| *key != "group");
                let mut all: Vec<Setting> =
                    all.map(|(key, value)| inline(key, value.clone())).collect();
                all.push(inline("group", format!("{group}::{name}").into()));
                let inner = Settings { file: settings.file.clone(), all };
                Ok(vec![self.resolve(&inner, shared, depth + 1)?])
            }
            (None, Some(name)) if self.is_known(name) => self.named(name, &over, depth + 1),
            (None, Some(name)) => {
                over.push(inline("task", format!("{group}::{name}").into()));
                let inner = Settings { file: settings.file.clone(), all: over };
                Ok(vec![Selected::Task(Box::new(check::task(&inner)?))])
            }
            (None, None) => Err(members
                .error("a member of a group has no name")
                .expected("a mapping with `task` or `group`", member)),
        }
    }

    fn is_known(&self, name: &str) -> bool {
        let tagged = |entry: &Entry| entry.tags.iter().any(|tag| tag == name);
        self.entries.contains_key(name) || self.entries.values().any(tagged)
    }
}

/// Reads the settings of a file, built-in or not.
fn read(file: &Path) -> Result<Settings> {
    if file.starts_with(BUILT_IN_FOLDER) {
        return Settings::with_includes(file, &text, &mut Vec::new());
    }
    Settings::read(file)
}

/// The text of a file, built-in or not.
fn text(file: &Path) -> Result<String> {
    let Ok(name) = file.strip_prefix(BUILT_IN_FOLDER) else {
        return std::fs::read_to_string(file)
            .map_err(|e| Error::io("read the task file", file, &e));
    };
    let found = BUILT_IN.iter().find(|(known, _)| Path::new(known) == name);
    found
        .map(|(_, text)| text.to_string())
        .ok_or_else(|| Error::input("the file is not among the built-in tasks").file(file))
}

impl Task {
    /// Reads the task of a file.
    ///
    /// # Errors
    /// It cannot be read, is no task, or holds what is not supported.
    pub fn read(file: &Path) -> Result<Self> {
        check::task(&read(file)?)
    }
}
