//! Folders of a merge: where the output may go, and whether there is room on the disk.

use crate::error::{Error, Result};
use crate::model::Checkpoint;
use std::path::{Path, PathBuf};

/// An output must not touch an input: neither be one, nor hold one, nor lie in one.
pub(super) fn check_target(target: &Path, models: &[Checkpoint]) -> Result<()> {
    let Some(resolved) = resolve(target) else {
        return Err(Error::input("the folder to write into does not exist").file(target));
    };
    let files = models.iter().filter_map(|model| model.statistics()?.file.as_ref());
    for file in files {
        let real = std::fs::canonicalize(file).unwrap_or_else(|_| file.clone());
        if real.starts_with(&resolved) {
            return Err(Error::input("the output folder holds a file that is merged")
                .file(target)
                .fact("input", file.display())
                .hint("choose another folder with -o"));
        }
    }
    let own = models.iter().map(|model| (&model.reference, &model.folder));
    let adapters = models.iter().flat_map(Checkpoint::adapters);
    let adapters = adapters.map(|adapter| (&adapter.reference, &adapter.folder));
    for (reference, folder) in own.chain(adapters) {
        let folder = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.clone());
        if resolved.starts_with(&folder) || folder.starts_with(&resolved) {
            return Err(Error::input(
                "the output folder holds, or lies in, a model that is merged",
            )
            .file(target)
            .fact("model", reference)
            .hint("choose another folder with -o"));
        }
    }
    Ok(())
}

/// Refuses to start what cannot fit on the disk: `need` bytes in a staging folder.
pub(super) fn check_space(folder: &Path, need: u64) -> Result<()> {
    let Ok(stat) = rustix::fs::statvfs(folder) else {
        return Ok(());
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    // A resumed merge has part of its space already.
    let staged: u64 = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.metadata().ok())
        .map(|metadata| allocated(&metadata))
        .sum();
    if free.saturating_add(staged) < need {
        return Err(Error::io("write the output", folder, &std::io::ErrorKind::StorageFull.into())
            .expected(format!("{need} bytes free"), format!("{free} bytes free")));
    }
    Ok(())
}

#[cfg(unix)]
fn allocated(metadata: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(metadata) * 512
}

/// The absolute path of a target that may not exist yet, in a folder that does.
fn resolve(target: &Path) -> Option<PathBuf> {
    if let Ok(path) = std::fs::canonicalize(target) {
        return Some(path);
    }
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = std::fs::canonicalize(parent.unwrap_or(Path::new("."))).ok()?;
    Some(parent.join(target.file_name()?))
}
