//! Headers of GGUF files: what is accepted lies within the bytes, in order, without overlap.
#![no_main]

use cognate::model::parse_gguf;
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeSet;

fuzz_target!(|bytes: &[u8]| {
    let placed = match parse_gguf(bytes) {
        Ok(placed) => placed,
        Err(error) => {
            assert_eq!(error.exit_code(), 2, "{error}");
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let mut next = 0;
    let mut names = BTreeSet::new();
    for (spec, range) in &placed {
        assert!(range.start >= next, "{} starts behind the one before", spec.name);
        assert_eq!(spec.bytes(), range.len(), "{} fills its range", spec.name);
        assert!(bytes.get(range.clone()).is_some(), "{} lies within the bytes", spec.name);
        assert!(names.insert(&spec.name), "{} is placed twice", spec.name);
        next = range.end;
    }
});
