//! Shard indices: what is accepted names plain files of its own folder.
#![no_main]

use cognate::model::parse_index;
use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|bytes: &[u8]| {
    match parse_index(bytes) {
        Ok(weight_map) => {
            assert!(!weight_map.is_empty());
            let folder = Path::new("/models/a");
            for file in weight_map.values() {
                let path = folder.join(file);
                assert_eq!(path.parent(), Some(folder), "{file:?} leaves the folder");
                assert_eq!(path.file_name(), Some(file.as_ref()), "{file:?} is no file name");
                assert!(!file.contains('\0'), "{file:?} has a NUL");
            }
        }
        Err(error) => {
            assert_eq!(error.exit_code(), 2, "{error}");
            assert!(!error.to_string().is_empty());
        }
    }
});
