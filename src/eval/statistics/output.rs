//! The file of a result: written beside its place, and renamed when it is complete.

use crate::error::{Error, Result};
use crate::plan::safetensors_header;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Elements that are turned into bytes at a time.
const PIECE: usize = 1 << 18;

/// Refuses to replace a file, unless that is asked for, and one that is read in any case.
pub(super) fn check<'a>(
    target: &Path,
    overwrite: bool,
    mut read: impl Iterator<Item = &'a Path>,
) -> Result<()> {
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    let own = real(target);
    if own.is_some() && read.any(|path| real(path) == own) {
        return Err(Error::input("the output is a file that is read")
            .file(target)
            .hint("choose another with -o"));
    }
    if target.is_dir() {
        return Err(Error::input("the output is a folder").file(target).hint("name a file"));
    }
    if target.exists() && !overwrite {
        return Err(Error::input("the output file exists")
            .file(target)
            .hint("choose another with -o, or replace it with --overwrite"));
    }
    Ok(())
}

/// A tensor's place in the file.
struct Place {
    offset: u64,
    elements: usize,
}

/// A file of float32 tensors, zeros at first.
pub(super) struct Output {
    file: NamedTempFile,
    places: BTreeMap<String, Place>,
    total: f64,
}

impl Output {
    /// A file with tensors of these names and shapes.
    pub(super) fn create(
        target: &Path,
        tensors: &BTreeMap<String, Vec<usize>>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let mut places = BTreeMap::new();
        let mut entries = BTreeMap::new();
        let mut end = 0;
        for (name, shape) in tensors {
            let elements = shape.iter().product();
            let bytes = 4 * elements as u64;
            let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [end, end + bytes]});
            entries.insert(name.clone(), entry);
            places.insert(name.clone(), Place { offset: end, elements });
            end += bytes;
        }
        let header = safetensors_header(&json!(metadata), entries);
        for place in places.values_mut() {
            place.offset += header.len() as u64;
        }
        let folder = folder(target);
        check_space(&folder, header.len() as u64 + end)?;
        let failed = |e| Error::io("make the output file", &folder, &e);
        let mut builder = tempfile::Builder::new();
        builder.prefix(".cognate-").suffix(".partial");
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.tempfile_in(&folder).map_err(failed)?;
        file.write_all(&header).map_err(failed)?;
        file.as_file().set_len(header.len() as u64 + end).map_err(failed)?;
        Ok(Self { file, places, total: 0.0 })
    }

    /// The sum of all elements that were put.
    pub(super) fn total(&self) -> f64 {
        self.total
    }

    /// Puts the elements of a tensor.
    pub(super) fn put(&mut self, name: &str, values: &[f32]) -> Result<()> {
        let offset = self.place(name, values.len())?.offset;
        let path = self.file.path().to_path_buf();
        let failed = |e| Error::io("write the output", &path, &e);
        let file = self.file.as_file_mut();
        file.seek(SeekFrom::Start(offset)).map_err(failed)?;
        for piece in values.chunks(PIECE) {
            let bytes: Vec<u8> = piece.iter().flat_map(|x| x.to_le_bytes()).collect();
            file.write_all(&bytes).map_err(failed)?;
            self.total += piece.iter().map(|x| f64::from(*x)).sum::<f64>();
        }
        Ok(())
    }

    fn place(&self, name: &str, elements: usize) -> Result<&Place> {
        let place = self.places.get(name).filter(|place| place.elements == elements);
        place.ok_or_else(|| Error::internal("a tensor has no place in the output").tensor(name))
    }

    /// Gives the file its name.
    pub(super) fn commit(self, target: &Path, overwrite: bool) -> Result<()> {
        let failed = |e: &std::io::Error| Error::io("write the output", target, e);
        self.file.as_file().sync_all().map_err(|e| failed(&e))?;
        let renamed = match overwrite {
            true => self.file.persist(target),
            false => self.file.persist_noclobber(target),
        };
        renamed.map_err(|e| failed(&e.error))?;
        let folder = folder(target);
        File::open(&folder).and_then(|folder| folder.sync_all()).map_err(|e| failed(&e))
    }
}

/// Refuses to start what cannot fit on the disk.
fn check_space(folder: &Path, need: u64) -> Result<()> {
    let Ok(stat) = rustix::fs::statvfs(folder) else { return Ok(()) };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free >= need {
        return Ok(());
    }
    Err(Error::io("write the output", folder, &std::io::ErrorKind::StorageFull.into())
        .expected(format!("{need} bytes free"), format!("{free} bytes free")))
}

fn folder(target: &Path) -> PathBuf {
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new(".")).to_path_buf()
}
