//! Tasks by name: the built-in ones, those of folders, and files.

use super::settings::{Setting, Settings, Strictness};
use super::{Group, Selected, Task, check, group, table};
use crate::error::{Error, Result, list, nearest};
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Names files under `src/eval/tasks` with their texts.
macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../tasks/", $name)))),*]
    };
}

/// The task files that are part of the program, and what they include.
pub const BUILT_IN: &[(&str, &str)] = built_in![
    "arc_challenge.yaml",
    "arc_easy.yaml",
    "bbh/_bbh.yaml",
    "bbh/bbh.yaml",
    "bbh/bbh_cot_zeroshot.yaml",
    "bbh/bbh_cot_zeroshot_tasks.yaml",
    "bbh/bbh_zeroshot.yaml",
    "bbh/bbh_zeroshot_tasks.yaml",
    "boolq.yaml",
    "ceval/ceval-valid.yaml",
    "ceval/ceval.yaml",
    "ceval/ceval_tasks.yaml",
    "cmmlu/cmmlu.yaml",
    "cmmlu/cmmlu_tasks.yaml",
    "gsm8k.yaml",
    "hellaswag.yaml",
    "lambada_openai.yaml",
    "mbpp.yaml",
    "mmlu/mmlu.yaml",
    "mmlu/mmlu_humanities.yaml",
    "mmlu/mmlu_other.yaml",
    "mmlu/mmlu_social_sciences.yaml",
    "mmlu/mmlu_stem.yaml",
    "mmlu/mmlu_tasks.yaml",
    "openbookqa.yaml",
    "piqa.yaml",
    "truthfulqa_mc1.yaml",
    "truthfulqa_mc2.yaml",
    "wikitext.yaml",
    "winogrande.yaml",
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
    /// Of a group, the names of its members.
    pub members: Option<Vec<String>>,
    /// The tags it has.
    pub tags: Vec<String>,
    /// Why it cannot be used, where that is so.
    pub broken: Option<Error>,
    /// Of a task that is a row of its file's table, what it is.
    row: Option<Settings>,
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

    /// Adds the tasks of a folder and the folders in it. They take the place of others of the same
    /// names; of two files of the folder that name the same task, the first counts, by path. A file
    /// that cannot be used is an error only when its task is asked for.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn add_folder(&mut self, folder: &Path) -> Result<()> {
        std::fs::read_dir(folder).map_err(|e| Error::io("read the folder of tasks", folder, &e))?;
        let mut files = Vec::new();
        let mut folders = vec![(folder.to_path_buf(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            for path in paths(&folder) {
                if path.is_dir() && depth < MAX_DEPTH {
                    folders.push((path, depth + 1));
                } else if is_task_file(&path) && path.is_file() {
                    files.push(path);
                }
            }
        }
        files.sort_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
        let mut found = Self::default();
        files.iter().for_each(|file| found.add(file));
        self.entries.extend(found.entries);
        Ok(())
    }

    /// Adds the tasks or the group of a file, if it holds one: a file without either is one that
    /// others include. Names that are there stay what they are.
    fn add(&mut self, file: &Path) {
        let found = read(file).and_then(|settings| entries(file, settings));
        let found = found.unwrap_or_else(|e| {
            let names = Settings::with_includes(file, &text, Strictness::Names, &mut Vec::new());
            let entry = names.ok().and_then(|settings| entry(file, &settings));
            entry.into_iter().map(|entry| Entry { broken: Some(e.clone()), ..entry }).collect()
        });
        for entry in found {
            self.entries.entry(entry.name.clone()).or_insert(entry);
        }
    }

    /// The tasks and groups, by name.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// The tasks and groups that no other group holds.
    pub fn outermost(&self) -> Vec<&Entry> {
        let groups = self.entries.values().filter(|entry| entry.members.is_some());
        let mut held = BTreeSet::new();
        for group in groups {
            let members = self.members(group).into_iter().map(|member| member.name.as_str());
            held.extend(members.filter(|member| *member != group.name));
        }
        self.entries.values().filter(|entry| !held.contains(entry.name.as_str())).collect()
    }

    /// What a group holds: its members, and those of the tags among them.
    fn members<'a>(&'a self, group: &Entry) -> Vec<&'a Entry> {
        let of = |name: &String| match self.entries.get(name) {
            Some(entry) => vec![entry],
            None => self.entries.values().filter(|entry| entry.tags.contains(name)).collect(),
        };
        group.members.iter().flatten().flat_map(of).collect()
    }

    /// The names of the tasks in a group and in the groups within it.
    pub fn tasks_within<'a>(&'a self, group: &'a Entry) -> Vec<&'a str> {
        let mut names: Vec<&str> = Vec::new();
        let mut open = vec![(group, 0)];
        while let Some((entry, depth)) = open.pop() {
            match &entry.members {
                None if !names.contains(&entry.name.as_str()) => names.push(&entry.name),
                Some(_) if depth < MAX_GROUPS => {
                    open.extend(self.members(entry).into_iter().map(|member| (member, depth + 1)));
                }
                _ => {}
            }
        }
        names.sort_unstable();
        names
    }

    /// Finds what `--task` asks for: a task, a group or a tag by name, or a file.
    ///
    /// # Errors
    /// Nothing is called so, or what is called so cannot be used.
    pub fn select(&self, name: &str) -> Result<Vec<Selected>> {
        let path = Path::new(name);
        if is_task_file(path) {
            if !path.is_file() {
                return Err(Error::input("the task file is not there").file(path));
            }
            let mut beside = Self::default();
            if let Some(folder) = path.parent() {
                let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
                let others = paths(folder).into_iter().filter(|other| is_task_file(other));
                others.filter(|other| other != path).for_each(|other| beside.add(&other));
            }
            let mut catalog = self.clone();
            catalog.entries.extend(beside.entries);
            let all = table::tasks(read(path)?)?;
            return all.iter().map(|settings| catalog.resolve(settings, &[], 0)).collect();
        }
        self.named(name, &[], 0)
    }

    fn named(&self, name: &str, over: &[Setting], depth: usize) -> Result<Vec<Selected>> {
        if let Some(entry) = self.entries.get(name) {
            if let Some(broken) = &entry.broken {
                return Err(broken.clone());
            }
            let selected = match &entry.row {
                Some(row) => self.resolve(row, over, depth),
                None => self.resolve(&read(&entry.file)?, over, depth),
            };
            return Ok(vec![selected?]);
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

/// The entries of a file's settings.
fn entries(file: &Path, settings: Settings) -> Result<Vec<Entry>> {
    let in_table = settings.get("table").is_some();
    let tasks = table::tasks(settings)?.into_iter();
    let entry = |settings: Settings| {
        let entry = entry(file, &settings)?;
        Some(Entry { row: in_table.then_some(settings), ..entry })
    };
    Ok(tasks.filter_map(entry).collect())
}

/// The entry of a task or group; none for settings that are neither.
fn entry(file: &Path, settings: &Settings) -> Option<Entry> {
    let is_group = group::is_group(settings);
    let name = settings.get(if is_group { "group" } else { "task" })?.value.as_str()?;
    let tags = ["tag", "group"].iter().filter(|_| !is_group);
    let tags = tags.filter_map(|key| settings.get(key)?.texts().ok()).flatten();
    Some(Entry {
        name: name.to_string(),
        file: file.to_path_buf(),
        members: is_group.then(|| group::member_names(settings)),
        tags: tags.collect(),
        broken: None,
        row: None,
    })
}

fn is_task_file(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "yaml" || end == "yml")
}

/// What a folder holds, sorted; nothing where it cannot be read.
fn paths(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Reads the settings of a file, built-in or not.
fn read(file: &Path) -> Result<Settings> {
    if file.starts_with(BUILT_IN_FOLDER) {
        return Settings::with_includes(file, &text, Strictness::Checked, &mut Vec::new());
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
    /// It cannot be read, is no task or several, or holds what is not supported.
    pub fn read(file: &Path) -> Result<Self> {
        match table::tasks(read(file)?)?.as_slice() {
            [one] => check::task(one),
            several => Err(Error::input("a file of several tasks is read as one")
                .file(file)
                .expected("one task", several.len())),
        }
    }
}
