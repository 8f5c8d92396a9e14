//! The files of a model's folder, and their digests.

use crate::engine::Digest;
use crate::error::{Error, Result};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

/// What version control keeps in a folder; no part of the model.
const OF_GIT: [&str; 4] = [".git", ".gitattributes", ".github", ".gitignore"];

/// A listing that is longer is refused.
const MOST_FILES: usize = 100_000;

/// A folder by a path that ends in its name, so that what lies beside it can be found: `.` has none.
pub(crate) fn with_name(folder: &Path) -> PathBuf {
    match folder.file_name() {
        Some(_) => folder.to_path_buf(),
        None => std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_path_buf()),
    }
}

/// Every file in a folder and the folders in it, with `/` between their names, sorted by these; without what
/// Git keeps there. Links to files are followed, links to folders are not.
///
/// # Errors
/// A folder cannot be listed, a name is not Unicode, or there are too many files.
pub(crate) fn list(folder: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut open = vec![String::new()];
    while let Some(at) = open.pop() {
        let path = folder.join(&at);
        let failed = |e: std::io::Error| Error::io("list the model folder", &path, &e);
        for entry in std::fs::read_dir(&path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().into_string().map_err(|name| {
                Error::input("the name of a file is not Unicode").file(&path.join(name))
            })?;
            if at.is_empty() && OF_GIT.contains(&name.as_str()) {
                continue;
            }
            let name = if at.is_empty() { name } else { format!("{at}/{name}") };
            if entry.file_type().map_err(failed)?.is_dir() {
                open.push(name);
            } else {
                found.push(name);
            }
        }
        if found.len() + open.len() > MOST_FILES {
            return Err(Error::input("the folder holds too many files to be a model")
                .file(folder)
                .expected(format!("at most {MOST_FILES}"), found.len() + open.len()));
        }
    }
    found.sort_by(|a, b| a.split('/').cmp(b.split('/')));
    Ok(found)
}

/// Whether a path, as a record gives it, stays in its folder.
pub(crate) fn is_inside(path: &str) -> bool {
    let mut parts = Path::new(path).components();
    !path.is_empty()
        && !path.contains('\\')
        && parts.all(|part| matches!(part, Component::Normal(_)))
}

/// A file's length and SHA-256, read front to back; `read` is told how many bytes each step took.
///
/// # Errors
/// It is no regular file, or cannot be read.
pub(crate) fn digest(path: &Path, read: impl Fn(u64)) -> Result<(u64, Digest)> {
    let failed = |e: std::io::Error| Error::io("read the file", path, &e);
    // Looked at before it is opened, since opening a pipe waits for its other end.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(Error::input("not a regular file").file(path));
    }
    let mut file = File::open(path).map_err(failed)?;
    let (mut hasher, mut size) = (Sha256::new(), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok((size, hasher.finalize().into())),
            some => {
                hasher.update(&buffer[..some]);
                size += some as u64;
                read(some as u64);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_a_folder_are_listed_in_order() {
        let folder = tempfile::tempdir().unwrap();
        for path in ["b", "a-b", "a/x", ".git/config", ".gitignore", "c/.gitignore", ".hidden"] {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "text").unwrap();
        }
        assert_eq!(list(folder.path()).unwrap(), [".hidden", "a/x", "a-b", "b", "c/.gitignore"]);
        let (size, digest) = digest(&folder.path().join("b"), |_| ()).unwrap();
        assert_eq!((size, digest), (4, Sha256::digest("text").into()));
    }

    #[test]
    fn paths_that_leave_the_folder_are_told() {
        assert!(is_inside("a") && is_inside("a/b.json"));
        for path in ["", "..", "a/../../b", "/etc/passwd", "./a", "a\\b"] {
            assert!(!is_inside(path), "{path}");
        }
    }
}
