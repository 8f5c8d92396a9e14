//! Safetensors headers: what is accepted covers the data exactly, in order, without overlap.
#![no_main]

use cognate::model::{parse_header, split_layer};
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeSet;

fuzz_target!(|bytes: &[u8]| {
    let placed = match parse_header(bytes) {
        Ok(placed) => placed,
        Err(error) => {
            assert_eq!(error.exit_code(), 2, "{error}");
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    assert_eq!(placed, parse_header(bytes).expect("it was accepted"), "the order is fixed");
    let declared = u64::from_le_bytes(*bytes.first_chunk().expect("a length was read"));
    let mut next = 8 + usize::try_from(declared).expect("the header fits the bytes");
    let mut names = BTreeSet::new();
    for (spec, range) in &placed {
        assert_eq!(range.start, next, "{} starts where the one before ends", spec.name);
        assert_eq!(spec.bytes(), range.len(), "{} fills its range", spec.name);
        assert!(bytes.get(range.clone()).is_some(), "{} lies within the bytes", spec.name);
        assert!(names.insert(&spec.name), "{} is placed twice", spec.name);
        if let Some(split) = split_layer(&spec.name) {
            let renumbered = split.renumbered(split.layer);
            let again = split_layer(&renumbered).expect("it still has a layer");
            assert_eq!(again, split, "a name keeps its parts when it is written again");
        }
        next = range.end;
    }
    assert_eq!(next, bytes.len(), "the tensors end where the bytes end");
});
